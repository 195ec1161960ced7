package org.dgemma.runtime;

import java.util.HashMap;
import java.util.Map;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;

/**
 * Denoising one canvas: a call of {@code denoise} a step, or one call of the fused {@code generate}; both give the same
 * steps.
 *
 * <p>It knows nothing of text, stop tokens or of what comes before or after the canvas. N canvas, T steps, D hidden.
 * Buffers are made once; a step allocates nothing that stays.
 */
abstract class CanvasLoop {
    final Engine engine;
    final String graph;
    final int length;
    final int steps;
    final Step step;
    final Map<String, Tensor> feeds = new HashMap<>();
    final Map<String, Tensor> outputs = new HashMap<>();
    private final int vocab;
    private final float[] temperatures;
    private final long[] initial;
    private final Tensor prefixLength = Buffers.scalar(0);
    private Map<String, Tensor> views;

    CanvasLoop(Engine engine, String graph) {
        Manifest manifest = engine.bundle().manifest();
        this.engine = engine;
        this.graph = graph;
        length = manifest.canvasLength;
        steps = manifest.steps;
        vocab = manifest.model.vocabSize;
        step = new Step(length);
        initial = new long[length];
        temperatures = new float[steps];
        for (int i = 0; i < steps; i++) {
            temperatures[i] = (float) manifest.sampler.temperature(steps - i);
        }
        feeds.put("prefix_length", prefixLength);
    }

    static CanvasLoop of(Engine engine, Loop loop) {
        return loop == Loop.HOST ? new HostLoop(engine) : new GraphLoop(engine);
    }

    /**
     * Denoises canvas number {@code canvas} after what the prefix has encoded.
     *
     * @return false when the sink ended it; else the last step is what the sink saw last.
     */
    final boolean run(Prefix prefix, long seed, int canvas, boolean adaptive, Step.Sink sink) {
        Map<String, Tensor> now = prefix.views(graph);
        if (now != views) {
            feeds.putAll(now);
            views = now;
        }
        prefixLength.data.putLong(0, prefix.encoded());
        return denoise(seed, canvas, adaptive, sink);
    }

    abstract boolean denoise(long seed, int canvas, boolean adaptive, Step.Sink sink);

    /** Writes the initial canvas [1, N]. */
    final void start(long seed, int canvas, Tensor into) {
        Noise.words(Noise.streamKey(seed, canvas, 0), initial);
        for (int i = 0; i < length; i++) {
            initial[i] = Noise.token(initial[i], vocab);
            step.canvasOut[i] = (int) initial[i];
        }
        Buffers.write(initial, into);
    }

    /** Fills the step that was run as number i from 0; row {@code row} of the outputs is its own. */
    final void read(int i, int row, String argmax, String entropy, String accepted, String canvas) {
        step.number = i + 1;
        step.remaining = steps - i;
        step.temperature = temperatures[i];
        System.arraycopy(step.canvasOut, 0, step.canvasIn, 0, length);
        Buffers.read(outputs.get(argmax), row, step.argmax);
        Buffers.read(outputs.get(entropy), row, step.entropy);
        Buffers.read(outputs.get(accepted), row, step.accepted);
        Buffers.read(outputs.get(canvas), row, step.canvasOut);
    }

    final float temperature(int i) {
        return temperatures[i];
    }

    final Tensor output(String name, DType dtype, long... shape) {
        Tensor tensor = Buffers.zeros(dtype, shape);
        outputs.put(name, tensor);
        return tensor;
    }
}
