package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtException;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Manifest.ModelConfig;
import org.dgemma.runtime.TargetSpec;
import org.dgemma.runtime.TargetSpec.StaticGraph;

/**
 * The parts of a step that an accelerator computes, each by the smallest of its graphs that is large enough. What a part returns
 * is to be read before its next run. n rows that count, M rows of a graph, D hidden, N canvas.
 */
final class StaticParts {
    private final ModelConfig model;
    private final TargetSpec spec;
    private final StaticGraphs graphs;
    private final HostConstants constants;
    private final String label;

    StaticParts(ModelConfig model, TargetSpec spec, StaticGraphs graphs, HostConstants constants, String label) {
        this.model = model;
        this.spec = spec;
        this.graphs = graphs;
        this.constants = constants;
        this.label = label;
    }

    /** embedded, soft [n, D] → what the layers read [n, D]. */
    FloatBuffer condition(FloatBuffer embedded, FloatBuffer soft, int n) throws OrtException {
        StaticGraphs.Graph graph = graphs.get(least(StaticShapes.CONDITION, 0, n));
        fill(graph.inputs.get("embedded"), embedded, n);
        fill(graph.inputs.get("soft"), soft, n);
        graphs.run(graph);
        return floats(graph.outputs.get("conditioned"));
    }

    /** hidden [n, D] → products with the head's rows from id {@code first} on, [n, ids]. */
    FloatBuffer products(FloatBuffer hidden, int n, int first) throws OrtException {
        StaticGraphs.Graph graph = graphs.get(least(StaticShapes.HEAD, first, n));
        fill(graph.inputs.get("hidden"), hidden, n);
        graphs.run(graph);
        return floats(graph.outputs.get("products"));
    }

    /**
     * All layers.
     *
     * @param x [n, D]
     * @param pass of n rows; its sizes of arrays are set here
     * @param feeds of the graph that asks, whose prefix is read
     * @param outputs of the graph that asks; the rows' keys and values are written where it has them
     * @return hidden [n, D]
     */
    FloatBuffer layers(FloatBuffer x, StaticPass pass, Map<String, Tensor> feeds, Map<String, Tensor> outputs)
            throws OrtException {
        int local = slots(feeds, false);
        pass.slots = Math.max(local, slots(feeds, true));
        pass.local = local == 0 ? pass.slots : local;
        List<StaticGraph> chain = chain(pass.n, pass.slots);
        pass.rows = chain.get(0).rows;
        Set<String> filled = new HashSet<>();
        FloatBuffer hidden = x;
        int count = pass.n;
        for (StaticGraph part : chain) {
            StaticGraphs.Graph graph = graphs.get(part);
            fill(graph.inputs.get("x"), hidden, count);
            for (boolean full : new boolean[] {false, true}) {
                if (graph.inputs.containsKey("bias_" + StaticShapes.kind(full)) && filled.add(StaticShapes.kind(full))) {
                    tables(graph, part, pass, full);
                }
            }
            layerInputs(graph, part, pass, feeds);
            graphs.run(graph);
            for (Map.Entry<String, Tensor> output : graph.outputs.entrySet()) {
                Tensor wanted = outputs.get(output.getKey());
                if (wanted != null) {
                    copy(output.getValue(), 0, wanted, (int) wanted.size(1));
                }
            }
            hidden = floats(graph.outputs.get("hidden"));
            count = part.rows;
        }
        return hidden;
    }

    private void tables(StaticGraphs.Graph graph, StaticGraph part, StaticPass pass, boolean full) {
        String kind = StaticShapes.kind(full);
        pass.rotations(full ? constants.fullFrequencies : constants.slidingFrequencies,
                floats(graph.inputs.get("cos_" + kind)), floats(graph.inputs.get("sin_" + kind)));
        pass.bias(StaticShapes.room(part, full, spec.local), full ? 0 : model.slidingWindow,
                floats(graph.inputs.get("bias_" + kind)));
    }

    private void layerInputs(StaticGraphs.Graph graph, StaticGraph part, StaticPass pass, Map<String, Tensor> feeds) {
        float[] scalars = pass.canvas ? constants.denoiseScalars : constants.encodeScalars;
        for (int i = part.first; i < part.last; i++) {
            graph.inputs.get("scalar_" + i).data.putFloat(0, scalars[i]);
            for (String kind : new String[] {"prefix_key_", "prefix_value_"}) {
                Tensor from = feeds.get(kind + i);
                Tensor to = graph.inputs.get(kind + i);
                int kept = (int) Math.min(from.size(1), to.size(1));
                copy(from, (int) from.size(1) - kept, to, kept); // sliding layers of a short graph read the last slots
            }
        }
    }

    /** Slots of the prefix of the first layer of a kind; 0 where there is none. */
    private int slots(Map<String, Tensor> feeds, boolean full) {
        for (int i = 0; i < model.numLayers; i++) {
            if (model.isFull(i) == full) {
                return (int) feeds.get("prefix_key_" + i).size(1);
            }
        }
        return 0;
    }

    /** The graphs of all layers, for the fewest rows, and then the fewest slots, that are enough. */
    private List<StaticGraph> chain(int rows, int slots) {
        StaticGraph least = null;
        Comparator<StaticGraph> size = Comparator.<StaticGraph>comparingInt(g -> g.rows).thenComparingInt(g -> g.slots);
        for (StaticGraph graph : spec.graphs) {
            boolean fits = graph.part.equals(StaticShapes.LAYERS) && graph.rows >= rows && graph.slots >= slots;
            if (fits && (least == null || size.compare(graph, least) < 0)) {
                least = graph;
            }
        }
        if (least == null) {
            throw new EngineException("no graph of " + label + " takes " + rows + " rows behind a prefix of " + slots
                    + "; export the bundle again");
        }
        List<StaticGraph> chain = new ArrayList<>();
        for (StaticGraph graph : spec.graphs) {
            if (graph.part.equals(StaticShapes.LAYERS) && size.compare(graph, least) == 0) {
                chain.add(graph);
            }
        }
        chain.sort(Comparator.comparingInt(g -> g.first));
        return chain;
    }

    /** The graph of a part with the fewest rows that are enough. */
    private StaticGraph least(String part, int first, int rows) {
        StaticGraph least = null;
        for (StaticGraph graph : spec.graphs) {
            boolean fits = graph.part.equals(part) && graph.first == first && graph.rows >= rows;
            if (fits && (least == null || graph.rows < least.rows)) {
                least = graph;
            }
        }
        if (least == null) {
            throw new EngineException(
                    "no graph of " + label + " takes " + rows + " rows in its " + part + "; export the bundle again");
        }
        return least;
    }

    /** The tensor's first n rows, and zeros behind them. */
    private static void fill(Tensor to, FloatBuffer rows, int n) {
        FloatBuffer target = floats(to);
        FloatBuffer source = rows.duplicate();
        source.limit(source.position() + n * (int) to.size(2));
        target.put(source);
        while (target.hasRemaining()) {
            target.put(0);
        }
    }

    /** {@code count} rows of axis 1 from {@code first} on, and zeros behind them. */
    private static void copy(Tensor from, int first, Tensor to, int count) {
        ByteBuffer source = from.data.duplicate();
        ByteBuffer target = to.data.duplicate();
        int row = to.data.capacity() / (int) Math.max(1, to.size(1));
        source.clear().position(first * row).limit((first + count) * row);
        target.clear();
        target.put(source);
        while (target.remaining() >= Long.BYTES) {
            target.putLong(0);
        }
        while (target.hasRemaining()) {
            target.put((byte) 0);
        }
    }

    private static FloatBuffer floats(Tensor tensor) {
        ByteBuffer data = tensor.data.duplicate().order(tensor.data.order());
        data.clear();
        return data.asFloatBuffer();
    }
}
