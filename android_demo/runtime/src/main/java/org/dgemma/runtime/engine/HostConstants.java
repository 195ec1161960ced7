package org.dgemma.runtime.engine;

import java.io.DataInputStream;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.ZipEntry;
import java.util.zip.ZipException;
import java.util.zip.ZipFile;
import org.dgemma.runtime.BundleException;
import org.dgemma.runtime.Manifest.ModelConfig;

/** Layer scalars of both modes, frequencies of rotations, and the scale of embeddings: an .npz of float32 vectors. */
final class HostConstants {
    private static final Pattern HEADER = Pattern.compile(
            "\\{'descr': '<f4', 'fortran_order': (?:False|True), 'shape': \\((\\d{1,9}),\\), \\}\\s*");

    final float[] encodeScalars;
    final float[] denoiseScalars;
    final float[] slidingFrequencies;
    final float[] fullFrequencies;
    final float embedScale;

    private HostConstants(ZipFile zip, ModelConfig model) throws IOException {
        encodeScalars = read(zip, "encode_scalars", model.numLayers);
        denoiseScalars = read(zip, "denoise_scalars", model.numLayers);
        slidingFrequencies = read(zip, "sliding_frequencies", model.headDim / 2);
        fullFrequencies = read(zip, "full_frequencies", model.globalHeadDim / 2);
        embedScale = read(zip, "embed_scale", 1)[0];
    }

    /** Throws BundleException where the file cannot be read or is of another model. */
    static HostConstants read(File file, ModelConfig model) {
        try (ZipFile zip = new ZipFile(file)) {
            return new HostConstants(zip, model);
        } catch (IOException error) {
            throw new BundleException(
                    file + ": cannot be read (" + AbstractEngine.line(error) + "); export the bundle again", error);
        }
    }

    private static float[] read(ZipFile zip, String name, int size) throws IOException {
        ZipEntry entry = zip.getEntry(name + ".npy");
        if (entry == null) {
            throw new ZipException("no array " + name);
        }
        try (DataInputStream in = new DataInputStream(zip.getInputStream(entry))) {
            byte[] start = new byte[10];
            in.readFully(start);
            byte[] header = new byte[start[8] & 0xff | (start[9] & 0xff) << 8];
            in.readFully(header);
            Matcher shape = HEADER.matcher(new String(header, StandardCharsets.US_ASCII));
            if (start[6] != 1 || !shape.matches()) {
                throw new ZipException("array " + name + " is no vector of float32");
            }
            if (Integer.parseInt(shape.group(1)) != size) {
                throw new ZipException("array " + name + " is of another model");
            }
            byte[] data = new byte[4 * size];
            in.readFully(data);
            float[] values = new float[size];
            ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values);
            return values;
        }
    }
}
