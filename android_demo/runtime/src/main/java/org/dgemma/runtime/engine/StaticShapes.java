package org.dgemma.runtime.engine;

import java.util.LinkedHashMap;
import java.util.Map;
import org.dgemma.runtime.Manifest.ModelConfig;
import org.dgemma.runtime.TargetSpec.StaticGraph;

/**
 * Names and shapes of a static graph's inputs and outputs, all float32. M rows, D hidden, K kv heads, d head dim, S slots of a
 * kind of layer.
 */
final class StaticShapes {
    static final String CONDITION = "condition";
    static final String LAYERS = "layers";
    static final String HEAD = "head";

    final Map<String, long[]> inputs = new LinkedHashMap<>();
    final Map<String, long[]> outputs = new LinkedHashMap<>();

    /** @param local most slots of a sliding layer's prefix */
    StaticShapes(StaticGraph graph, ModelConfig model, int local) {
        long[] hidden = {1, graph.rows, model.hiddenSize};
        switch (graph.part) {
            case CONDITION:
                inputs.put("embedded", hidden);
                inputs.put("soft", hidden);
                outputs.put("conditioned", hidden);
                break;
            case LAYERS:
                layers(graph, model, local, hidden);
                break;
            default:
                inputs.put("hidden", hidden);
                outputs.put("products", new long[] {1, graph.rows, graph.last - graph.first});
        }
    }

    private void layers(StaticGraph graph, ModelConfig model, int local, long[] hidden) {
        inputs.put("x", hidden);
        for (int i = graph.first; i < graph.last; i++) {
            boolean full = model.isFull(i);
            long room = room(graph, full, local);
            long heads = model.layerKvHeads(i);
            long dim = model.layerHeadDim(i);
            String kind = kind(full);
            inputs.put("cos_" + kind, new long[] {graph.rows, 1, dim / 2});
            inputs.put("sin_" + kind, new long[] {graph.rows, 1, dim / 2});
            inputs.put("bias_" + kind, new long[] {graph.rows, room + graph.rows});
            inputs.put("scalar_" + i, new long[] {1});
            for (String each : new String[] {"key", "value"}) {
                inputs.put("prefix_" + each + "_" + i, new long[] {1, room, heads, dim});
                outputs.put("new_" + each + "_" + i, new long[] {1, graph.rows, heads, dim});
            }
        }
        outputs.put("hidden", hidden);
    }

    static String kind(boolean full) {
        return full ? "full" : "sliding";
    }

    /** Slots of a graph's inputs for one kind of layer. */
    static int room(StaticGraph graph, boolean full, int local) {
        return full ? graph.slots : Math.min(graph.slots, local);
    }
}
