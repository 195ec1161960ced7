package org.dgemma.runtime;

import java.nio.LongBuffer;
import java.util.Arrays;
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
        output("committed", DType.INT64, 1, length);
        output("steps", DType.INT64, 1);
        output("argmaxes", DType.INT64, steps, length);
        output("canvases", DType.INT64, steps, length);
        output("entropies", DType.FLOAT32, steps, length);
        output("accepts", DType.BOOL, steps, length);
    }

    @Override
    boolean denoise(GenerateOptions options, int number, DenoisingStep.Sink sink) {
        Buffers.write(initial, canvas);
        LongBuffer all = words.data.asLongBuffer();
        for (int i = 0; i < steps; i++) {
            Noise.words(Noise.streamKey(options.seed, number, i + 1), row);
            all.put(row);
        }
        adaptive.data.put(0, (byte) (options.adaptive ? 1 : 0));
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

    private int check(long run) {
        if (run >= 1 && run <= steps) {
            Buffers.read(outputs.get("committed"), 0, committed);
            Buffers.read(outputs.get("argmaxes"), (int) run - 1, last);
            if (Arrays.equals(committed, last)) {
                return (int) run;
            }
        }
        throw new EngineException("graph 'generate' ran " + run + " of " + steps
                + " steps and did not commit the last argmax canvas");
    }
}
