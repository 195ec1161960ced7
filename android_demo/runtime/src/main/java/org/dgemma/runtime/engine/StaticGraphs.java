package org.dgemma.runtime.engine;

import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.io.File;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.TargetSpec;
import org.dgemma.runtime.TargetSpec.StaticGraph;

/** An accelerator's graphs, opened on first use, and the arrays that they read and write: one for each name and shape. */
final class StaticGraphs {
    private static final int REASON = 200;

    /** How graphs are opened. */
    static final class Opening {
        final NpuProvider provider;
        final Map<String, String> options;
        /** Whether the ONNX sources are opened in place of the contexts. */
        final boolean sources;
        final int threads;

        Opening(NpuProvider provider, Map<String, String> options, boolean sources, int threads) {
            this.provider = provider;
            this.options = options;
            this.sources = sources;
            this.threads = threads;
        }
    }

    /** A graph that is open. */
    static final class Graph {
        final Map<String, Tensor> inputs = new LinkedHashMap<>();
        final Map<String, Tensor> outputs = new LinkedHashMap<>();
        private final OpenSession file;

        private Graph(OpenSession file) {
            this.file = file;
        }
    }

    private final Bundle bundle;
    private final TargetSpec spec;
    private final Opening opening;
    private final OnnxTensors tensors = new OnnxTensors(OnnxLibrary.environment());
    private final OrtSession.RunOptions runOptions;
    private final Map<StaticGraph, Graph> open = new IdentityHashMap<>();
    private final Map<String, Tensor> arrays = new HashMap<>();

    StaticGraphs(Bundle bundle, TargetSpec spec, Opening opening, OrtSession.RunOptions runOptions) {
        this.bundle = bundle;
        this.spec = spec;
        this.opening = opening;
        this.runOptions = runOptions;
    }

    /** Throws EngineException where the graph is refused, with the library's reason. */
    Graph get(StaticGraph graph) {
        Graph found = open.get(graph);
        if (found == null) {
            found = open(graph);
            open.put(graph, found);
        }
        return found;
    }

    /** From the graph's inputs to its outputs. */
    void run(Graph graph) throws OrtException {
        tensors.next();
        Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
        Map<String, OnnxTensor> outputs = new LinkedHashMap<>();
        for (Map.Entry<String, Tensor> input : graph.inputs.entrySet()) {
            inputs.put(input.getKey(), tensors.of(input.getValue()));
        }
        for (Map.Entry<String, Tensor> output : graph.outputs.entrySet()) {
            outputs.put(output.getKey(), tensors.of(output.getValue()));
        }
        graph.file.session.run(inputs, Collections.<String>emptySet(), outputs, runOptions).close();
    }

    void close() {
        for (Graph graph : open.values()) {
            graph.file.close();
        }
        open.clear();
        arrays.clear();
        tensors.close();
        runOptions.close();
    }

    private Graph open(StaticGraph graph) {
        if (opening.sources && graph.source == null) {
            throw new EngineException(bundle.folder() + ": has no source of " + graph.file + "; export the bundle again");
        }
        File file = bundle.file(opening.sources ? graph.source : graph.file);
        OpenSession opened;
        try {
            Map<String, String> entries = QnnProvider.entries(!opening.sources);
            opened = opening.provider.open(file, entries, opening.options, opening.threads);
        } catch (OrtException error) {
            String reason = String.valueOf(error.getMessage()).trim().replaceAll("\\s+", " ");
            String shown = reason.substring(0, Math.min(REASON, reason.length()));
            throw new EngineException(file + ": the NPU refused this graph (" + shown
                    + "); export the bundle again, or use target cpu", error);
        }
        try {
            Graph made = new Graph(opened);
            StaticShapes shapes = new StaticShapes(graph, bundle.manifest().model, spec.local);
            check(file, shapes.inputs, opened.session.getInputInfo());
            check(file, shapes.outputs, opened.session.getOutputInfo());
            shapes.inputs.forEach((name, shape) -> made.inputs.put(name, array("in ", name, shape)));
            shapes.outputs.forEach((name, shape) -> made.outputs.put(name, array("out ", name, shape)));
            return made;
        } catch (OrtException error) {
            opened.close();
            throw new EngineException(file + ": onnxruntime failed (" + AbstractEngine.line(error) + ")", error);
        } catch (RuntimeException error) {
            opened.close();
            throw error;
        }
    }

    private Tensor array(String side, String name, long[] shape) {
        String key = side + name + Arrays.toString(shape);
        try {
            return arrays.computeIfAbsent(key, made -> Tensor.zeros(DType.FLOAT32, shape));
        } catch (IllegalArgumentException | ArithmeticException | OutOfMemoryError error) {
            throw new EngineException("no memory for the arrays of the NPU's graphs (" + error.getMessage()
                    + "); close other programs, or use a bundle with a shorter context", error);
        }
    }

    /** A context of other shapes would read past the arrays. */
    private static void check(File file, Map<String, long[]> wanted, Map<String, NodeInfo> found) {
        Set<String> names = found.keySet();
        boolean fits = names.equals(wanted.keySet());
        for (Map.Entry<String, long[]> each : wanted.entrySet()) {
            Object info = fits ? found.get(each.getKey()).getInfo() : null;
            fits = info instanceof TensorInfo && ((TensorInfo) info).type == OnnxJavaType.FLOAT
                    && Arrays.equals(((TensorInfo) info).getShape(), each.getValue());
            if (!fits) {
                break;
            }
        }
        if (!fits) {
            throw new EngineException(file + ": takes or gives other tensors than this dgemma; export the bundle again");
        }
    }
}
