package org.dgemma.runtime;

import java.nio.LongBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;

/** One {@code generate} call a canvas; its steps are told after it has returned. */
final class GraphLoop extends CanvasLoop {
    private final Tensor canvas;
    private final Tensor words;
    private final Tensor adaptive;
    private final long[] row;
    private final int[] committed;
    private final int[] last;
    /** Whether the graph takes what a generation samples by; an older bundle's has its own built in. */
    private final boolean steered;

    GraphLoop(Engine engine, Prefix prefix) {
        super(engine, prefix, Loop.GRAPH.graph, 0);
        canvas = Buffers.zeros(DType.INT64, 1, length);
        words = Buffers.zeros(DType.INT64, steps, 2, length);
        adaptive = Buffers.zeros(DType.BOOL, 1);
        row = new long[2 * length];
        committed = new int[length];
        last = new int[length];
        feeds.put("canvas", canvas);
        feeds.put("words", words);
        feeds.put("adaptive", adaptive);
        steered = lacks(engine.bundle().graph(engine.name(), graph)).isEmpty();
        if (steered) {
            feeds.put("temperatures", Buffers.zeros(DType.FLOAT32, steps));
            feeds.put("bounds", Buffers.zeros(DType.FLOAT64, steps));
            feeds.put("most_steps", Buffers.scalar(steps));
            feeds.put("confidence", Buffers.zeros(DType.FLOAT64, 1));
            feeds.put("stability", Buffers.scalar(0));
        }
        output("committed", DType.INT64, 1, length);
        output("steps", DType.INT64, 1);
        output("argmaxes", DType.INT64, steps, length);
        output("canvases", DType.INT64, steps, length);
        output("entropies", DType.FLOAT32, steps, length);
        output("accepts", DType.BOOL, steps, length);
    }

    @Override
    boolean denoise(GenerateOptions options, int number, Known known, DenoisingStep.Sink sink) {
        Buffers.write(initial, canvas);
        LongBuffer all = words.data.asLongBuffer();
        for (int i = 0; i < steps; i++) {
            Noise.words(Noise.streamKey(options.seed, number, i + 1), row);
            all.put(row);
        }
        adaptive.data.put(0, (byte) (options.adaptive ? 1 : 0));
        if (steered) {
            sample(options.sampler, engine.bundle().manifest().sampler);
        }
        engine.run(graph, feeds, outputs);
        int run = check(outputs.get("steps").data.getLong(0));
        for (int i = 0; i < run; i++) {
            read(i, i, "argmaxes", "entropies", "accepts", "canvases");
            if (!sink.accept(step)) {
                return false;
            }
        }
        return true;
    }

    /** Steps beyond the last have values that no step reads. */
    private void sample(SamplerOptions sampler, Manifest.SamplerConfig exported) {
        for (int i = 0; i < steps; i++) {
            feeds.get("temperatures").data.putFloat(4 * i, i < scheduled() ? temperature(i) : 1);
            feeds.get("bounds").data.putDouble(8 * i, i < scheduled() ? bound(i) : 0);
        }
        feeds.get("most_steps").data.putLong(0, scheduled());
        feeds.get("confidence").data.putDouble(0, sampler.confidence(exported));
        feeds.get("stability").data.putLong(0, sampler.stability(exported));
    }

    /** Inputs of the fused graph that an older bundle has not. */
    static List<String> lacks(Manifest.GraphSpec fused) {
        List<String> lacks = new ArrayList<>(
                Arrays.asList("temperatures", "bounds", "most_steps", "confidence", "stability"));
        for (Manifest.TensorSpec spec : fused.inputs) {
            lacks.remove(spec.name);
        }
        return lacks;
    }

    private int check(long run) {
        if (run >= 1 && run <= scheduled()) {
            Buffers.read(outputs.get("committed"), 0, committed);
            Buffers.read(outputs.get("argmaxes"), (int) run - 1, last);
            if (Arrays.equals(committed, last)) {
                return (int) run;
            }
        }
        throw new EngineException("graph 'generate' ran " + run + " of " + scheduled()
                + " steps and did not commit the last argmax canvas");
    }
}
