package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Manifest.GraphSpec;
import org.dgemma.runtime.Manifest.ModelConfig;
import org.dgemma.runtime.Placement;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.TargetSpec;

/**
 * A bundle's graphs, with self-conditioning, layers and products of the head on an NPU, and everything else on the processor. It
 * has the graphs that sessions need but the loop of all steps and the guided step. n rows, D hidden, K candidates.
 */
final class NpuEngine extends AbstractEngine {
    private static final List<String> GRAPHS = Collections.unmodifiableList(
            Arrays.asList("encode", "denoise", "denoise_active", "decode", "check"));

    private final String label;
    private final OrtSession.RunOptions runOptions;
    private final Rows workers;
    private final IdTable table;
    private final HostSampler sampler;
    private final StaticGraphs graphs;
    private final StaticParts parts;
    /** {first id, end} of the head's tiles. */
    private final int[][] tiles;

    /** On this machine's NPU, or in its emulator. */
    static AbstractEngine open(Bundle bundle, TargetSpec spec, QnnLibraries libraries, SessionOptions options) {
        boolean emulated = NpuChoice.emulated();
        String unchecked = libraries.check(spec.versions.getOrDefault("qairt", ""), bundle.folder());
        StaticGraphs.Opening opening = new StaticGraphs.Opening(
                new QnnProvider(libraries, emulated), QnnProvider.options(libraries, spec.options), emulated,
                options.threads);
        String label = "onnx/qnn (" + (emulated ? "emulated " : "") + spec.chip + ")";
        NpuEngine engine = new NpuEngine(bundle, spec, opening, label);
        if (unchecked != null) {
            engine.warn(unchecked);
        }
        if (emulated) {
            engine.warn("this machine has no Snapdragon NPU, so qnn:" + spec.chip + " runs in an emulator, which takes "
                    + "seconds per step; its speed says nothing about the NPU's");
        }
        return engine;
    }

    NpuEngine(Bundle bundle, TargetSpec spec, StaticGraphs.Opening opening, String label) {
        super(Engines.ONNX, OnnxLibrary.version(), bundle);
        this.label = label;
        placed(new Placement(label, spec.placement, null));
        ModelConfig model = bundle.manifest().model;
        HostConstants constants = HostConstants.read(bundle.file(spec.constants), model);
        table = new IdTable(bundle, spec.table, constants.embedScale);
        tiles = spec.graphs.stream().filter(g -> g.part.equals(StaticShapes.HEAD)).map(g -> Arrays.asList(g.first, g.last))
                .distinct().sorted((a, b) -> a.get(0) - b.get(0)).map(span -> new int[] {span.get(0), span.get(1)})
                .toArray(int[][]::new);
        try {
            runOptions = new OrtSession.RunOptions();
            runOptions.setLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL);
        } catch (OrtException error) {
            throw new EngineException("onnxruntime " + version() + " failed: " + line(error), error);
        }
        workers = new Rows(opening.threads);
        sampler = new HostSampler(tiles, model, bundle.manifest().sampler, table, workers);
        graphs = new StaticGraphs(bundle, spec, opening, runOptions);
        parts = new StaticParts(model, spec, graphs, constants, label);
    }

    @Override
    void load(String graph, GraphSpec spec) {
        if (graph.equals("generate")) {
            throw new EngineException(label + " has no graph of all steps (loop graph); use loop host, or target cpu");
        }
        if (!GRAPHS.contains(graph)) {
            throw new EngineException(label + " has no graph '" + graph + "'; use target cpu");
        }
    }

    @Override
    void call(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) throws OrtException {
        switch (graph) {
            case "encode":
                causal(feeds, outputs);
                break;
            case "decode":
                next(causal(feeds, outputs), new int[] {(int) number(feeds, "count") - 1}, outputs.get("next_token"));
                break;
            case "check":
                FloatBuffer hidden = causal(feeds, outputs);
                next(hidden, ints(feeds.get("rows")), outputs.get("next_tokens"));
                break;
            case "denoise":
                int[] every = new int[(int) feeds.get("canvas").size(1)];
                for (int i = 0; i < every.length; i++) {
                    every[i] = i;
                }
                step(feeds, every, new boolean[every.length], outputs);
                break;
            default:
                step(feeds, ints(feeds.get("positions")), bools(feeds.get("settled")), outputs);
        }
    }

    /** Hidden states [n, D] of prefix tokens; their keys and values are written. */
    private FloatBuffer causal(Map<String, Tensor> feeds, Map<String, Tensor> outputs) throws OrtException {
        StaticPass pass = new StaticPass();
        long[] tokens = longs(feeds.get("tokens"));
        pass.n = tokens.length;
        pass.length = (int) number(feeds, "start");
        pass.settled = new boolean[1];
        pass.positions = new int[pass.n];
        for (int i = 0; i < pass.n; i++) {
            pass.positions[i] = i;
        }
        return parts.layers(embedded(tokens), pass, feeds, outputs);
    }

    /** A denoising step of the rows at those positions. */
    private void step(Map<String, Tensor> feeds, int[] positions, boolean[] settled, Map<String, Tensor> outputs)
            throws OrtException {
        long[] canvas = longs(feeds.get("canvas"));
        int n = canvas.length;
        StaticPass pass = new StaticPass();
        pass.n = n;
        pass.length = (int) number(feeds, "prefix_length");
        pass.canvas = true;
        pass.positions = positions;
        pass.settled = settled;
        FloatBuffer x = parts.condition(embedded(canvas), feeds.get("soft").data.asFloatBuffer(), n);
        FloatBuffer hidden = parts.layers(x, pass, feeds, outputs);
        long[] all = longs(feeds.get("words"));
        long[][] words = {Arrays.copyOf(all, n), Arrays.copyOfRange(all, n, 2 * n)};
        float temperature = feeds.get("temperature").data.getFloat(0);
        HostSampler.Drawn drawn =
                sampler.sample(tile -> parts.products(hidden, n, tiles[tile][0]), n, words, temperature);
        write(drawn.canvas, outputs.get("next_canvas"));
        write(drawn.argmax, outputs.get("argmax"));
        write(drawn.entropy, outputs.get("entropy"));
        write(drawn.soft, outputs.get("next_soft"));
        for (int i = 0; i < n; i++) {
            outputs.get("accepted").data.put(i, (byte) (drawn.accepted[i] ? 1 : 0));
        }
        if (outputs.containsKey("drawn")) { // graphs of older bundles put out no candidates
            write(drawn.drawn, outputs.get("drawn"));
            write(drawn.likeliest, outputs.get("likeliest"));
            write(drawn.logProbs, outputs.get("log_probs"));
        }
    }

    /** The likeliest ids behind rows of hidden states. */
    private void next(FloatBuffer hidden, int[] rows, Tensor ids) throws OrtException {
        FloatBuffer chosen = FloatBuffer.allocate(rows.length * table.hidden);
        for (int row : rows) {
            for (int i = 0; i < table.hidden; i++) {
                chosen.put(hidden.get(row * table.hidden + i));
            }
        }
        chosen.flip();
        write(sampler.next(tile -> parts.products(chosen, rows.length, tiles[tile][0]), rows.length), ids);
    }

    private FloatBuffer embedded(long[] ids) {
        FloatBuffer rows = FloatBuffer.allocate(ids.length * table.hidden);
        float[] row = new float[table.hidden];
        for (long id : ids) {
            table.embed(id, row);
            rows.put(row);
        }
        rows.flip();
        return rows;
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
        workers.close();
        graphs.close();
    }

    private static long number(Map<String, Tensor> feeds, String name) {
        return feeds.get(name).data.getLong(0);
    }

    private static long[] longs(Tensor tensor) {
        ByteBuffer data = tensor.data.duplicate().order(ByteOrder.nativeOrder());
        data.clear();
        long[] values = new long[data.capacity() / Long.BYTES];
        data.asLongBuffer().get(values);
        return values;
    }

    private static int[] ints(Tensor tensor) {
        return Arrays.stream(longs(tensor)).mapToInt(Math::toIntExact).toArray();
    }

    private static boolean[] bools(Tensor tensor) {
        boolean[] values = new boolean[tensor.data.capacity()];
        for (int i = 0; i < values.length; i++) {
            values[i] = tensor.data.get(i) != 0;
        }
        return values;
    }

    private static void write(long[] values, Tensor to) {
        to.data.duplicate().order(ByteOrder.nativeOrder()).asLongBuffer().put(values);
    }

    private static void write(float[] values, Tensor to) {
        to.data.duplicate().order(ByteOrder.nativeOrder()).asFloatBuffer().put(values);
    }
}
