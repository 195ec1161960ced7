package org.dgemma.runtime;

import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;
import org.dgemma.runtime.structure.Scores;

/**
 * One {@code denoise} call a step, two of {@code denoise_guided} where it is guided; the adaptive stop is decided here. Canvas
 * and soft embeddings alternate between two buffers.
 */
final class HostLoop extends CanvasLoop {
    private final Tensor[] canvases = new Tensor[2];
    private final Tensor[] softs = new Tensor[2];
    private final Tensor noSoft;
    private final Tensor words;
    private final Tensor temperature;
    private final long[] row;
    private final AdaptiveStop stop;
    private final Steering steering;
    private final int[] every;

    HostLoop(Engine engine, Prefix prefix) {
        super(engine, prefix, Loop.HOST.graph, 0);
        Manifest manifest = engine.bundle().manifest();
        long hidden = manifest.model.hiddenSize;
        for (int i = 0; i < 2; i++) {
            canvases[i] = Buffers.zeros(DType.INT64, 1, length);
            softs[i] = Buffers.zeros(DType.FLOAT32, 1, length, hidden);
        }
        noSoft = Buffers.zeros(DType.FLOAT32, 1, length, hidden);
        words = Buffers.zeros(DType.INT64, 2, length);
        temperature = Buffers.zeros(DType.FLOAT32, 1);
        row = new long[2 * length];
        stop = new AdaptiveStop(manifest.sampler, length);
        feeds.put("words", words);
        feeds.put("temperature", temperature);
        output("argmax", DType.INT64, 1, length);
        output("entropy", DType.FLOAT32, 1, length);
        output("accepted", DType.BOOL, 1, length);
        candidates(outputs);
        steering = new Steering(manifest, outputs);
        every = new int[length];
        for (int i = 0; i < length; i++) {
            every[i] = i;
        }
    }

    @Override
    Candidates candidates() {
        return steering.candidates();
    }

    @Override
    boolean denoise(GenerateOptions options, int canvas, Known known, DenoisingStep.Sink sink) {
        Buffers.write(initial, canvases[0]);
        stop.reset(options.sampler);
        steering.reset(options.sampler, known, options.logprobs != null);
        for (int i = 0; i < scheduled(); i++) {
            int from = i % 2;
            Noise.words(Noise.streamKey(options.seed, canvas, i + 1), row);
            Buffers.write(row, words);
            temperature.data.putFloat(0, temperature(i));
            feeds.put("canvas", canvases[from]);
            feeds.put("soft", i == 0 ? noSoft : softs[from]);
            outputs.put("next_canvas", canvases[1 - from]);
            outputs.put("next_soft", softs[1 - from]);
            boolean twice = known.guide != null && known.guide.guides(i + 1);
            if (twice) {
                known.guide.run(feeds, outputs, step.accepted);
            } else {
                engine.run(graph, feeds, outputs);
            }
            step.rows = twice ? 2 * length : length;
            read(i, 0, "argmax", "entropy", "accepted", "next_canvas");
            steering.decide(every, temperature(i), bound(i), row, step.argmax, step.entropy, step.accepted, step.canvasOut);
            for (int j = 0; j < length; j++) {
                canvases[1 - from].data.putLong(8 * j, step.canvasOut[j]);
            }
            if (!sink.accept(step)) {
                return false;
            }
            if (options.adaptive && stop.ends(step.argmax, step.entropy, length)) {
                break;
            }
        }
        return true;
    }

    /**
     * What a step at temperature 1 says of the position behind ids that a first canvas begins with, the rest being its noise; of
     * one position.
     */
    Scores behind(long seed, int[] begun) {
        feedPrefix();
        Noise.words(Noise.streamKey(seed, 0, 0), initial);
        for (int i = 0; i < length; i++) {
            initial[i] = i < begun.length ? begun[i] : Noise.token(initial[i], vocab);
        }
        Buffers.write(initial, canvases[0]);
        Noise.words(Noise.streamKey(seed, 0, 1), row);
        Buffers.write(row, words);
        temperature.data.putFloat(0, 1);
        feeds.put("canvas", canvases[0]);
        feeds.put("soft", noSoft);
        outputs.put("next_canvas", canvases[1]);
        outputs.put("next_soft", softs[1]);
        engine.run(graph, feeds, outputs);
        Buffers.read(outputs.get("entropy"), 0, step.entropy);
        Numbers.check(engine, step.entropy, "a step for the choices");
        Scores scores = new Scores(1);
        steering.score(begun.length, scores, 0);
        return scores;
    }
}
