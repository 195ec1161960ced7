package org.dgemma.runtime.engine;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.StandardOpenOption;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.BundleException;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.TargetSpec.TableSpec;
import org.jspecify.annotations.Nullable;

/** The table of ids [V, D], mapped from the bundle: float32, or int8 with scales. R rows, D hidden, V vocabulary. */
final class IdTable {
    /** Bytes that are mapped in one piece, of at most 2 GB. */
    private static final long PIECE = 1L << 30;
    /** Ids whose rows are read together. */
    private static final int BLOCK = 64;

    final int hidden;
    private final int vocab;
    private final int rowBytes;
    private final int rowsOfPiece;
    private final ByteBuffer[] pieces;
    private final float @Nullable [] scales;
    private final float scale;
    private final float[][] read;

    /** @param scale of embeddings */
    IdTable(Bundle bundle, TableSpec spec, float scale) {
        vocab = bundle.manifest().model.vocabSize;
        hidden = bundle.manifest().model.hiddenSize;
        this.scale = scale;
        rowBytes = hidden * (spec.dtype.equals("int8") ? 1 : 4);
        rowsOfPiece = (int) Math.max(1, PIECE / rowBytes);
        pieces = new ByteBuffer[(vocab + rowsOfPiece - 1) / rowsOfPiece];
        read = new float[BLOCK][hidden];
        File path = bundle.file(spec.file);
        try (FileChannel file = FileChannel.open(path.toPath(), StandardOpenOption.READ)) {
            for (int i = 0; i < pieces.length; i++) {
                long first = (long) i * rowsOfPiece;
                long size = Math.min(rowsOfPiece, vocab - first) * rowBytes;
                pieces[i] = map(file, path, spec.offset + first * rowBytes, size);
            }
            scales = spec.scales == null ? null : new float[vocab];
            if (scales != null) {
                map(file, path, spec.scales, 4L * vocab).asFloatBuffer().get(scales);
            }
        } catch (IOException error) {
            throw new BundleException(path + ": cannot be read (" + AbstractEngine.line(error) + ")", error);
        }
    }

    private static ByteBuffer map(FileChannel file, File path, long offset, long size) throws IOException {
        if (offset < 0 || offset + size > file.size()) {
            throw new BundleException(path + ": does not hold the table that the manifest names; export it again");
        }
        return file.map(FileChannel.MapMode.READ_ONLY, offset, size).order(ByteOrder.LITTLE_ENDIAN);
    }


    /** An id's row [D], scaled as the model's embeddings are. */
    void embed(long id, float[] row) {
        if (id < 0 || id >= vocab) {
            throw new EngineException("id " + id + " is outside the vocabulary of " + vocab);
        }
        row((int) id, row);
        float own = scales == null ? 1 : scales[(int) id];
        for (int i = 0; i < hidden; i++) {
            row[i] = row[i] * own * scale;
        }
    }

    /**
     * Add to each row's sum [D] the weighted sum of the table's rows from {@code first} on, scaled as embeddings are.
     *
     * @param weights [R][t or more]
     * @param size t
     * @param factors of each row's sum that is added, [R]
     */
    void addExpected(float[][] weights, int first, int size, double[] factors, double[][] sums, Rows rows) {
        for (int begin = 0; begin < size; begin += BLOCK) {
            int from = begin;
            int count = Math.min(BLOCK, size - begin);
            rows.each(count, i -> row(first + from + i, read[i]));
            rows.each(sums.length, r -> add(weights[r], first, from, count, factors[r] * scale, sums[r]));
        }
    }

    private void add(float[] weights, int first, int from, int count, double factor, double[] sum) {
        float[] block = new float[hidden];
        for (int i = 0; i < count; i++) {
            float weight = weights[from + i] * (scales == null ? 1 : scales[first + from + i]);
            float[] row = read[i];
            for (int j = 0; j < block.length; j++) {
                block[j] += weight * row[j];
            }
        }
        for (int j = 0; j < block.length; j++) {
            sum[j] += block[j] * factor;
        }
    }

    private void row(int id, float[] out) {
        ByteBuffer piece = pieces[id / rowsOfPiece];
        int at = id % rowsOfPiece * rowBytes;
        for (int i = 0; i < hidden; i++) {
            out[i] = rowBytes == hidden ? piece.get(at + i) : piece.getFloat(at + 4 * i);
        }
    }
}
