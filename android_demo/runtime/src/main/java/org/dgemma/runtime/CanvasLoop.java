package org.dgemma.runtime;

import java.util.HashMap;
import java.util.Map;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;
import org.dgemma.runtime.structure.StructuredCanvas;
import org.jspecify.annotations.Nullable;

/**
 * Denoising one canvas: a call of {@code denoise} a step, or one call of the fused {@code generate}; both give the same
 * steps. Or a call of {@code denoise_active} a step, for the positions alone that are not committed yet.
 *
 * <p>It knows nothing of text, stop tokens or of what comes before or after the canvas. N canvas, T steps, D hidden.
 * Buffers are made once; a step allocates nothing that stays.
 */
abstract class CanvasLoop {
    /** No id: what a canvas begins with is not known. */
    static final int NONE = -1;

    final Engine engine;
    final Prefix prefix;
    final String graph;
    final int length;
    final int steps;
    final DenoisingStep step;
    /** [N] the canvas before its first step. */
    final long[] initial;
    final Map<String, Tensor> feeds = new HashMap<>();
    final Map<String, Tensor> outputs = new HashMap<>();
    private final int behind;
    final int vocab;
    private final Manifest.SamplerConfig exported;
    private final Tensor prefixLength = Buffers.scalar(0);
    private Map<String, Tensor> views;
    private SamplerOptions sampler = SamplerOptions.EXPORTED;
    private float[] temperatures;
    /** Steps that a draft leaves out. */
    private int firstStep;
    private double[] bounds;

    /** What is known of a canvas before its first step. */
    static final class Known {
        /** The id that it begins with, NONE where it is not known. */
        int first = NONE;
        /** How many of its first positions take no stop token and no padding. */
        int least;
        /** A template, or its part of a draft. */
        @Nullable Given given;
        /** The language that it must be of. */
        @Nullable StructuredCanvas structured;
        /** What its steps are pushed away from. */
        @Nullable Guide guide;
    }

    /** @param behind slots that the graph needs behind the prefix */
    CanvasLoop(Engine engine, Prefix prefix, String graph, int behind) {
        Manifest manifest = engine.bundle().manifest();
        this.engine = engine;
        this.prefix = prefix;
        this.graph = graph;
        this.behind = behind;
        length = manifest.canvasLength;
        steps = manifest.steps;
        vocab = manifest.model.vocabSize;
        step = new DenoisingStep(length);
        initial = new long[length];
        exported = manifest.sampler;
        temperatures = sampler.temperatures(exported);
        bounds = sampler.bounds(exported);
        feeds.put("prefix_length", prefixLength);
    }

    static CanvasLoop of(String graph, Engine engine, Prefix prefix) {
        return graph.equals(ComputePolicy.ACTIVE) ? new ActiveLoop(engine, prefix)
                : graph.equals(Loop.HOST.graph) ? new HostLoop(engine, prefix)
                : new GraphLoop(engine, prefix);
    }

    /**
     * Denoises canvas number {@code canvas} after what the prefix has encoded.
     *
     * @return false when the sink ended it; else the last step is what the sink saw last.
     */
    final boolean run(GenerateOptions options, int canvas, Known known, DenoisingStep.Sink sink) {
        feedPrefix();
        if (options.sampler != sampler) {
            sampler = options.sampler;
            temperatures = sampler.temperatures(exported);
            bounds = sampler.bounds(exported);
        }
        Noise.words(Noise.streamKey(options.seed, canvas, 0), initial);
        step.number = 0;
        for (int i = 0; i < length; i++) {
            initial[i] = i == 0 && known.first != NONE ? known.first : Noise.token(initial[i], vocab);
        }
        firstStep = 0;
        if (known.given != null) {
            long[] words = new long[length]; // of the stream behind those of all steps
            Noise.words(Noise.streamKey(options.seed, canvas, steps + 1), words);
            known.given.begin(initial, words);
            firstStep = known.given.firstStep(temperatures.length);
        }
        for (int i = 0; i < length; i++) {
            step.canvasOut[i] = (int) initial[i];
        }
        return denoise(options, canvas, known, sink);
    }

    /** The inputs that are the prefix's keys and values, and how many of them count. */
    final void feedPrefix() {
        Map<String, Tensor> now = prefix.views(graph, behind);
        if (now != views) {
            feeds.putAll(now);
            views = now;
        }
        prefixLength.data.putLong(0, prefix.encoded());
    }

    /** All steps of a canvas from {@link #initial} on; false when the sink ended it. */
    abstract boolean denoise(GenerateOptions options, int canvas, Known known, DenoisingStep.Sink sink);

    /** The likeliest ids of the canvas that ran last, where the options want log-probabilities; null of the fused graph. */
    @Nullable Candidates candidates() {
        return null;
    }

    /** Begins to fill the step that was run as number i from 0. */
    final void begin(int i) {
        step.number = i + 1;
        step.remaining = scheduled() - i;
        step.temperature = temperature(i);
        step.bound = bound(i);
        System.arraycopy(step.canvasOut, 0, step.canvasIn, 0, length);
    }

    /** Fills the step that was run as number i from 0; row {@code row} of the outputs is its own. */
    final void read(int i, int row, String argmax, String entropy, String accepted, String canvas) {
        begin(i);
        Buffers.read(outputs.get(argmax), row, step.argmax);
        Buffers.read(outputs.get(entropy), row, step.entropy);
        Buffers.read(outputs.get(accepted), row, step.accepted);
        Buffers.read(outputs.get(canvas), row, step.canvasOut);
    }

    /** Steps of this canvas at most. */
    final int scheduled() {
        return temperatures.length - firstStep;
    }

    final float temperature(int i) {
        return temperatures[firstStep + i];
    }

    /** On entropies, in nats. */
    final double bound(int i) {
        return bounds[firstStep + i];
    }

    /** Room for what a step puts out about its draws and likeliest ids; graphs of older bundles do not have it. */
    final void candidates(Map<String, Tensor> results) {
        int count = candidates(engine.bundle().graph(engine.name(), graph));
        if (count > 0) {
            results.put("drawn", Buffers.zeros(DType.INT64, 1, length));
            results.put("likeliest", Buffers.zeros(DType.INT64, 1, length, count));
            results.put("log_probs", Buffers.zeros(DType.FLOAT32, 1, length, count));
        }
    }

    /** How many of the likeliest ids a step puts out; 0 where it does not. */
    static int candidates(Manifest.GraphSpec graph) {
        for (Manifest.TensorSpec spec : graph.outputs) {
            Object last = spec.shape.isEmpty() ? null : spec.shape.get(spec.shape.size() - 1);
            if (spec.name.equals("likeliest") && last instanceof Number) {
                return ((Number) last).intValue();
            }
        }
        return 0;
    }

    final Tensor output(String name, DType dtype, long... shape) {
        Tensor tensor = Buffers.zeros(dtype, shape);
        outputs.put(name, tensor);
        return tensor;
    }
}
