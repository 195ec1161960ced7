package org.dgemma.runtime.engine;

import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Manifest;
import org.dgemma.runtime.Manifest.GraphSpec;
import org.dgemma.runtime.Manifest.TensorSpec;
import org.dgemma.runtime.SessionOptions;
import org.jspecify.annotations.Nullable;

/**
 * ONNX Runtime on the CPU: one inference session per graph file, with weights from the external file beside it.
 *
 * <p>Results are written into the caller's buffers. Where weights are large and there is a cache folder, packed weights are
 * kept on the device and mapped, see {@link PackedWeights}.
 */
final class OnnxEngine extends AbstractEngine {
    private static final String WEIGHTS = "onnx/weights.bin";

    private final OrtEnvironment environment;
    private final int threads;
    private final @Nullable File cacheFolder;
    private final @Nullable File expertsLibrary;
    private final long packFrom;
    private final boolean unsigned;
    private final Map<String, OpenFile> files = new HashMap<>();
    private final Map<String, Graph> graphs = new HashMap<>();
    private final OnnxTensors tensors;
    private final OrtSession.RunOptions runOptions;

    OnnxEngine(Bundle bundle, SessionOptions options) {
        this(bundle, options, PackedWeights.FROM, false);
    }

    /**
     * @param packFrom bytes of weights from which on packed ones are kept.
     * @param unsigned whether integer products have unsigned weights also where they need not, see {@link ExactProducts}.
     */
    OnnxEngine(Bundle bundle, SessionOptions options, long packFrom, boolean unsigned) {
        super(Engines.ONNX, OnnxLibrary.version(), bundle);
        this.environment = OnnxLibrary.environment();
        this.threads = options.threads;
        this.cacheFolder = options.cacheFolder;
        this.expertsLibrary = options.expertsLibrary;
        this.packFrom = packFrom;
        this.tensors = new OnnxTensors(environment);
        try {
            this.unsigned = unsigned || ExactProducts.saturates(environment);
            runOptions = new OrtSession.RunOptions();
            runOptions.setLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL);
        } catch (OrtException error) {
            throw new EngineException("onnxruntime " + version() + " failed: " + line(error), error);
        }
    }

    @Override
    void load(String graph, GraphSpec spec) throws OrtException {
        OpenFile file = files.get(spec.file);
        if (file == null) {
            file = open(spec.file);
            files.put(spec.file, file);
        }
        graphs.put(graph, new Graph(graph, spec, file, new File(bundle.folder(), spec.file)));
    }

    @Override
    void call(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) throws OrtException {
        Graph found = graphs.get(graph);
        tensors.next();
        for (Map.Entry<String, Tensor> input : found.defaults.entrySet()) {
            found.inputs.put(input.getKey(), tensors.of(input.getValue()));
        }
        for (Map.Entry<String, Tensor> input : feeds.entrySet()) {
            found.inputs.put(input.getKey(), tensors.of(input.getValue()));
        }
        for (Map.Entry<String, Tensor> output : outputs.entrySet()) {
            found.outputs.put(output.getKey(), tensors.of(output.getValue()));
        }
        found.file.session.run(found.inputs, Collections.<String>emptySet(), found.outputs, runOptions).close();
    }

    @Override
    void terminate() throws OrtException {
        runOptions.setTerminate(true);
    }

    @Override
    void rearm() throws OrtException {
        runOptions.setTerminate(false);
    }

    @Override
    void free() {
        graphs.clear();
        for (OpenFile file : files.values()) {
            file.close();
        }
        files.clear();
        tensors.close();
        runOptions.close();
    }

    /** A new inference session of one graph file, over packed weights that are kept where that is worth it. */
    private OpenFile open(String name) throws OrtException {
        File source = bundle.file(name);
        OnnxModel model = OnnxModel.read(bundle, name, unsigned);
        PackedWeights packed = packed(name);
        if (packed != null && packed.keep(stage -> save(model, source, stage))) {
            try {
                return openPacked(model, source, packed.model());
            } catch (OrtException error) {
                packed.refused(line(error));
            }
        }
        return open(model, source, options(model, source));
    }

    private @Nullable PackedWeights packed(String name) {
        Manifest.FileEntry known = bundle.manifest().files.get(WEIGHTS);
        if (cacheFolder == null || known == null || known.size < packFrom) {
            return null;
        }
        String version = version() + (unsigned ? "-unsigned" : "");
        return new PackedWeights(cacheFolder, bundle.digest(), version, name, known.size, this::warn);
    }

    private OpenFile openPacked(OnnxModel model, File source, File saved) throws OrtException {
        OrtSession.SessionOptions options = options(model, source);
        options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.NO_OPT); // done before it was saved
        return session(options, () -> environment.createSession(saved.getPath(), options), model.defaults);
    }

    private OpenFile open(OnnxModel model, File source, OrtSession.SessionOptions options) throws OrtException {
        ByteBuffer graph = model.changed; // small: its weights are in the external file, which is mapped by path
        if (graph == null) {
            return session(options, () -> environment.createSession(source.getPath(), options), model.defaults);
        }
        options.addConfigEntry("session.model_external_initializers_file_folder_path", model.weights.getPath());
        return session(options, () -> environment.createSession(graph, options), model.defaults);
    }

    /** Save what onnxruntime makes of a model, and its packed weights; throws IOException. */
    private void save(OnnxModel model, File source, File stage) throws IOException {
        try {
            OrtSession.SessionOptions options = options(model, source);
            options.setOptimizedModelFilePath(new File(stage, PackedWeights.MODEL).getPath());
            options.addConfigEntry("session.save_external_prepacked_constant_initializers", "1");
            options.addConfigEntry(
                    "session.optimized_model_external_initializers_file_name", PackedWeights.WEIGHTS);
            options.addConfigEntry("session.optimized_model_external_initializers_min_size_in_bytes", "1024");
            open(model, source, options).close();
        } catch (OrtException error) { // if the graph is to blame, opening the bundle's own will tell
            throw new IOException(line(error), error);
        }
    }

    private OrtSession.SessionOptions options(OnnxModel model, File source) throws OrtException {
        OrtSession.SessionOptions options = new OrtSession.SessionOptions();
        if (model.experts) {
            ExpertsLibrary.register(options, expertsLibrary, source);
        }
        options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL); // errors arrive as exceptions
        // Every file has a thread pool; one that spins on after its run takes the cores from the next one's.
        options.addConfigEntry("session.force_spinning_stop", "1");
        // Folds DequantizeLinear of constants: int8 weights are made of stored int4 once, when a session opens.
        options.addConfigEntry("session.disable_quant_qdq", "1");
        if (threads > 0) {
            options.setIntraOpNumThreads(threads);
        }
        return options;
    }

    private interface Opener {
        OrtSession open() throws OrtException;
    }

    private static OpenFile session(OrtSession.SessionOptions options, Opener opener, Map<String, Tensor> defaults)
            throws OrtException {
        OrtSession session;
        try {
            session = opener.open();
        } catch (OrtException | RuntimeException error) {
            options.close();
            throw error;
        }
        return new OpenFile(session, options, defaults);
    }

    private static final class OpenFile extends OpenSession {
        final Map<String, Tensor> defaults;

        OpenFile(OrtSession session, OrtSession.SessionOptions options, Map<String, Tensor> defaults) {
            super(session, options);
            this.defaults = defaults;
        }
    }

    /** A graph of a file; its maps are filled anew by every run and keep their nodes. */
    private static final class Graph {
        final OpenFile file;
        /** Inputs of the file that are not inputs of this graph, with their values. */
        final Map<String, Tensor> defaults = new LinkedHashMap<>();
        final Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
        final Map<String, OnnxTensor> outputs = new LinkedHashMap<>();

        Graph(String graph, GraphSpec spec, OpenFile file, File path) throws OrtException {
            this.file = file;
            defaults.putAll(file.defaults);
            for (TensorSpec input : spec.inputs) {
                defaults.remove(input.name);
            }
            Map<String, NodeInfo> wanted = file.session.getInputInfo();
            Set<String> outputNames = file.session.getOutputNames();
            boolean fits = wanted.size() == spec.inputs.size() + defaults.size();
            for (TensorSpec input : spec.inputs) {
                fits &= wanted.containsKey(input.name);
            }
            for (TensorSpec output : spec.outputs) {
                fits &= outputNames.contains(output.name);
            }
            if (!fits) {
                throw new EngineException(path + ": its inputs or outputs are not those of the manifest");
            }
            check(graph, "input", spec.inputs, wanted);
            check(graph, "output", spec.outputs, file.session.getOutputInfo());
        }

        /** A result of another type would be written past the caller's buffer. */
        private static void check(String graph, String side, List<TensorSpec> specs, Map<String, NodeInfo> infos) {
            for (TensorSpec spec : specs) {
                Object info = infos.get(spec.name).getInfo();
                boolean fits = info instanceof TensorInfo && word(((TensorInfo) info).type).equals(spec.dtype)
                        && ((TensorInfo) info).getShape().length == spec.shape.size();
                if (!fits) {
                    throw new EngineException("graph '" + graph + "': " + side + " '" + spec.name + "' is not "
                            + spec.dtype + " of rank " + spec.shape.size());
                }
            }
        }

        private static String word(OnnxJavaType type) {
            return type == OnnxJavaType.FLOAT ? DType.FLOAT32.word
                    : type == OnnxJavaType.DOUBLE ? DType.FLOAT64.word
                    : type == OnnxJavaType.INT64 ? DType.INT64.word
                    : type == OnnxJavaType.BOOL ? DType.BOOL.word : "";
        }
    }
}
