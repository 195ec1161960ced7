package org.dgemma.runtime.engine;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.dgemma.format.ProtoException;
import org.dgemma.format.ProtoReader;
import org.jspecify.annotations.Nullable;

/**
 * Puts right what onnxruntime saves. Field numbers are those of onnx.proto: tensors are in graphs, those in attributes of
 * nodes again.
 *
 * <p>Versions 1.23 to 1.29, at least, save the initializers of branches and loop bodies twice and then refuse to open them
 * ("initializer name is not unique"); and they save packed weights at any offset, where kernels that load whole vectors
 * crash once it is mapped. 1.32 does neither.
 */
final class SavedModel {
    /** Of a vector register, or a cache line. */
    static final int ALIGNMENT = 64;

    private static final int GRAPH_NODE = 1;
    private static final int NODE_ATTRIBUTE = 5;
    private static final int ATTRIBUTE_GRAPH = 6;
    private static final int ATTRIBUTE_GRAPHS = 11;
    private static final int TENSOR_EXTERNAL = 13;
    /** A packed copy of a weight: {@code key|offset;length;flag|…}. */
    private static final Pattern BLOB = Pattern.compile("\\|(\\d{1,18});(\\d{1,18})");

    private final ByteBuffer model;
    private final @Nullable FileChannel from; // null where all data is in the model
    private final FileChannel to;

    private SavedModel(ByteBuffer model, @Nullable FileChannel from, FileChannel to) {
        this.model = model;
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
            ByteBuffer data = OnnxModel.map(model);
            new SavedModel(data, from, to).rewritten().writeTo(out);
        } catch (ProtoException | IllegalArgumentException error) {
            throw new IOException(model + ": is not an ONNX model", error);
        }
        Files.move(newModel.toPath(), model.toPath(), StandardCopyOption.REPLACE_EXISTING);
        Files.move(newWeights.toPath(), weights.toPath(), StandardCopyOption.REPLACE_EXISTING);
    }

    private static FileChannel create(File file) throws IOException {
        return FileChannel.open(file.toPath(), StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
    }

    private ProtoPieces rewritten() throws IOException {
        ProtoPieces out = new ProtoPieces(model);
        for (ProtoReader field = new ProtoReader(model); field.next(); ) {
            if (field.number() == OnnxModel.MODEL_GRAPH) {
                out.message(field.number(), graph(field));
            } else {
                out.keep(field);
            }
        }
        return out;
    }

    private ProtoPieces graph(ProtoReader graph) throws IOException {
        Map<String, Integer> last = new HashMap<>();
        for (ProtoReader field = graph.message(); field.next(); ) {
            if (field.number() == OnnxModel.GRAPH_INITIALIZER) {
                last.put(OnnxModel.name(field.message()), field.start());
            }
        }
        ProtoPieces out = new ProtoPieces(model);
        for (ProtoReader field = graph.message(); field.next(); ) {
            if (field.number() == GRAPH_NODE) {
                out.message(field.number(), node(field));
            } else if (field.number() != OnnxModel.GRAPH_INITIALIZER) {
                out.keep(field);
            } else if (last.get(OnnxModel.name(field.message())) == field.start()) {
                out.message(field.number(), tensor(field));
            }
        }
        return out;
    }

    private ProtoPieces node(ProtoReader node) throws IOException {
        ProtoPieces out = new ProtoPieces(model);
        for (ProtoReader field = node.message(); field.next(); ) {
            if (field.number() != NODE_ATTRIBUTE) {
                out.keep(field);
                continue;
            }
            ProtoPieces attribute = new ProtoPieces(model);
            for (ProtoReader part = field.message(); part.next(); ) {
                if (part.number() == ATTRIBUTE_GRAPH || part.number() == ATTRIBUTE_GRAPHS) {
                    attribute.message(part.number(), graph(part));
                } else {
                    attribute.keep(part);
                }
            }
            out.message(NODE_ATTRIBUTE, attribute);
        }
        return out;
    }

    private ProtoPieces tensor(ProtoReader tensor) throws IOException {
        ProtoPieces out = new ProtoPieces(model);
        Map<String, String> entries = new LinkedHashMap<>();
        for (ProtoReader field = tensor.message(); field.next(); ) {
            if (field.number() == TENSOR_EXTERNAL) {
                String[] pair = {"", ""};
                for (ProtoReader entry = field.message(); entry.next(); ) {
                    if (entry.number() == 1 || entry.number() == 2) {
                        pair[entry.number() - 1] = entry.text();
                    }
                }
                entries.put(pair[0], pair[1]);
            } else {
                out.keep(field);
            }
        }
        if (entries.containsKey("length")) {
            move(entries);
        }
        for (Map.Entry<String, String> entry : entries.entrySet()) {
            ProtoPieces pair = new ProtoPieces(model);
            pair.text(1, entry.getKey());
            pair.text(2, entry.getValue());
            out.message(TENSOR_EXTERNAL, pair);
        }
        return out;
    }

    /** Copy a weight and its packed copies, and say in its entries where they are now. */
    private void move(Map<String, String> entries) throws IOException {
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
