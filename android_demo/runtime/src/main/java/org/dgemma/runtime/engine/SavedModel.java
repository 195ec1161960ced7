package org.dgemma.runtime.engine;

import java.io.File;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.dgemma.format.ProtoException;
import org.jspecify.annotations.Nullable;

/**
 * Puts right what onnxruntime saves.
 *
 * <p>Versions 1.23 to 1.29, at least, save the initializers of branches and loop bodies twice and then refuse to open them
 * ("initializer name is not unique"); and they save packed weights at any offset, where kernels that load whole vectors
 * crash once it is mapped. 1.32 does neither.
 */
final class SavedModel {
    /** Of a vector register, or a cache line. */
    static final int ALIGNMENT = 64;

    /** A packed copy of a weight: {@code key|offset;length;flag|…}. */
    private static final Pattern BLOB = Pattern.compile("\\|(\\d{1,18});(\\d{1,18})");

    private final @Nullable FileChannel from; // null where all data is in the model
    private final FileChannel to;

    private SavedModel(@Nullable FileChannel from, FileChannel to) {
        this.from = from;
        this.to = to;
    }

    /**
     * Rewrite a model and its external data, which must be all in one file: the last of all initializers of one name in a
     * graph stays, and data is aligned. Throws IOException, also when data is missing: a disk that fills up need be no error to
     * onnxruntime.
     */
    static void tidy(File model, File weights) throws IOException {
        if (weights.getParentFile().getUsableSpace() < weights.length()) {
            throw new IOException("no room for " + weights.length() + " bytes more");
        }
        File newModel = new File(model.getPath() + ".new");
        File newWeights = new File(weights.getPath() + ".new");
        boolean external = weights.exists();
        try (FileChannel from = external ? FileChannel.open(weights.toPath(), StandardOpenOption.READ) : null;
                FileChannel to = create(newWeights);
                FileChannel out = create(newModel)) {
            SavedModel saved = new SavedModel(from, to);
            ExternalData.moved(OnnxModel.map(model), saved::move).writeTo(out);
        } catch (ProtoException | IllegalArgumentException error) {
            throw new IOException(model + ": is not an ONNX model", error);
        }
        Files.move(newModel.toPath(), model.toPath(), StandardCopyOption.REPLACE_EXISTING);
        Files.move(newWeights.toPath(), weights.toPath(), StandardCopyOption.REPLACE_EXISTING);
    }

    private static FileChannel create(File file) throws IOException {
        return FileChannel.open(file.toPath(), StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
    }

    /** Copy a weight and its packed copies, and say in its entries where they are now. */
    private void move(Map<String, String> entries) throws IOException {
        if (!entries.containsKey("length")) {
            return;
        }
        long offset = Long.parseLong(entries.getOrDefault("offset", "0"));
        entries.put("offset", Long.toString(copy(offset, Long.parseLong(entries.get("length")))));
        for (Map.Entry<String, String> entry : entries.entrySet()) {
            if (entry.getKey().startsWith("prepacked_")) {
                StringBuffer moved = new StringBuffer();
                Matcher blob = BLOB.matcher(entry.getValue());
                while (blob.find()) {
                    long length = Long.parseLong(blob.group(2));
                    blob.appendReplacement(moved, "|" + copy(Long.parseLong(blob.group(1)), length) + ";" + length);
                }
                entry.setValue(blob.appendTail(moved).toString());
            }
        }
    }

    private long copy(long offset, long length) throws IOException {
        long held = from == null ? 0 : from.size();
        if (held < offset + length) {
            throw new IOException("only " + held + " bytes of " + (offset + length) + " were written");
        }
        long start = (to.position() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        to.position(start);
        for (long done = 0; done < length; ) {
            done += from.transferTo(offset + done, length - done, to);
        }
        return start;
    }
}
