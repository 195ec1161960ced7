package org.dgemma.runtime.engine;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.dgemma.format.ProtoException;
import org.dgemma.format.ProtoReader;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.jspecify.annotations.Nullable;

/**
 * An ONNX file as onnxruntime's Java API can run it.
 *
 * <p>A file that holds several graphs has inputs with a default (an initializer of the same name), since no graph uses
 * all of them. The C API lets a run override a default; the Java API refuses such an input as unknown. So their
 * initializers are left out of the model, which makes them plain inputs, and their values are fed where a graph does not
 * name them. Weights stay in their external file. Field numbers are those of onnx.proto.
 */
final class OnnxModel {
    static final int MODEL_GRAPH = 7;
    private static final int MODEL_OPSET = 8;
    private static final int OPSET_DOMAIN = 1;
    private static final String EXPERTS = "dgemma.native"; // of the operator that ExpertsLibrary brings
    static final int GRAPH_INITIALIZER = 5;
    private static final int GRAPH_INPUT = 11;
    private static final int INPUT_NAME = 1;
    static final int TENSOR_DIMS = 1;
    static final int TENSOR_TYPE = 2;
    static final int TENSOR_NAME = 8;
    static final int TENSOR_RAW = 9;

    /** Values of the inputs that have one, by name; empty for most files. */
    final Map<String, Tensor> defaults;
    /** The model to open, a direct buffer; null where the file can be opened as it is. */
    final @Nullable ByteBuffer changed;
    /** The folder of its weights. */
    final File weights;
    /** Whether it has the operator of routed experts. */
    final boolean experts;

    private OnnxModel(Map<String, Tensor> defaults, @Nullable ByteBuffer changed, LinkedWeights file) {
        this.defaults = defaults;
        this.changed = changed;
        this.weights = file.folder;
        this.experts = hasExperts(file.model);
    }

    /**
     * Find the inputs with a default; throws EngineException for a file that is no model.
     *
     * @param name of the graph's file in the bundle.
     * @param unsigned whether integer products are to have unsigned weights, see {@link ExactProducts}.
     */
    static OnnxModel read(Bundle bundle, String name, boolean unsigned) {
        File file = bundle.file(name);
        try {
            return parse(LinkedWeights.of(bundle, name), unsigned);
        } catch (IOException | ProtoException | IllegalArgumentException error) {
            throw new EngineException(file + ": is not an ONNX model (" + AbstractEngine.line(error)
                    + "); export the bundle again");
        }
    }

    /** A file's bytes, mapped: a direct buffer. */
    static ByteBuffer map(File file) throws IOException {
        try (FileChannel channel = FileChannel.open(file.toPath(), StandardOpenOption.READ)) {
            return channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size());
        }
    }

    /** Whether a model imports the domain of routed experts. */
    static boolean hasExperts(ByteBuffer model) {
        for (ProtoReader field = new ProtoReader(model); field.next(); ) {
            if (field.number() != MODEL_OPSET) {
                continue;
            }
            for (ProtoReader opset = field.message(); opset.next(); ) {
                if (opset.number() == OPSET_DOMAIN && opset.text().equals(EXPERTS)) {
                    return true;
                }
            }
        }
        return false;
    }

    private static OnnxModel parse(LinkedWeights file, boolean unsigned) {
        ByteBuffer data = file.model;
        ProtoReader graph = graph(data);
        Set<String> inputs = new HashSet<>();
        for (ProtoReader field = graph.message(); field.next(); ) {
            if (field.number() == GRAPH_INPUT) {
                for (ProtoReader input = field.message(); input.next(); ) {
                    if (input.number() == INPUT_NAME) {
                        inputs.add(input.text());
                    }
                }
            }
        }
        Map<String, Tensor> defaults = new LinkedHashMap<>();
        ExactProducts products = new ExactProducts(data);
        ProtoPieces kept = new ProtoPieces(data);
        for (ProtoReader field = graph.message(); field.next(); ) {
            String name = field.number() == GRAPH_INITIALIZER ? name(field.message()) : null;
            if (name != null && inputs.contains(name)) {
                defaults.put(name, tensor(name, field.message()));
            } else if (unsigned) {
                products.keep(field, kept);
            } else {
                kept.keep(field);
            }
        }
        if (unsigned) {
            ExactProducts.finish(kept);
        } else if (defaults.isEmpty()) {
            return new OnnxModel(defaults, file.followed ? data : null, file);
        }
        ProtoPieces model = new ProtoPieces(data);
        for (ProtoReader field = new ProtoReader(data); field.next(); ) {
            if (field.start() == graph.start()) {
                model.message(MODEL_GRAPH, kept);
            } else {
                model.keep(field);
            }
        }
        return new OnnxModel(defaults, model.toBuffer(), file);
    }

    private static ProtoReader graph(ByteBuffer data) {
        ProtoReader fields = new ProtoReader(data);
        while (fields.next()) {
            if (fields.number() == MODEL_GRAPH) {
                return fields;
            }
        }
        throw new IllegalArgumentException("no graph");
    }

    static @Nullable String name(ProtoReader tensor) {
        while (tensor.next()) {
            if (tensor.number() == TENSOR_NAME) {
                return tensor.text();
            }
        }
        return null;
    }

    private static Tensor tensor(String name, ProtoReader field) {
        List<Long> dims = new ArrayList<>();
        long type = 0;
        byte[] raw = {};
        while (field.next()) {
            if (field.number() == TENSOR_DIMS) {
                dims.add(field.integer());
            } else if (field.number() == TENSOR_TYPE) {
                type = field.integer();
            } else if (field.number() == TENSOR_RAW) {
                raw = field.bytes();
            }
        }
        DType dtype = type == 1 ? DType.FLOAT32 : type == 7 ? DType.INT64 : type == 9 ? DType.BOOL : null;
        long count = dtype == null ? -1 : dtype.bytes;
        long[] shape = new long[dims.size()];
        for (int i = 0; i < shape.length; i++) {
            shape[i] = dims.get(i);
            count = shape[i] < 0 || shape[i] > Integer.MAX_VALUE || count > Integer.MAX_VALUE ? -1 : count * shape[i];
        }
        if (dtype == null || count != raw.length) {
            throw new IllegalArgumentException("the default of input '" + name + "' cannot be read");
        }
        Tensor value = Tensor.zeros(dtype, shape);
        ByteBuffer data = value.data.duplicate();
        data.put(raw);
        return value;
    }
}
