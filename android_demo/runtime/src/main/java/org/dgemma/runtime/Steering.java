package org.dgemma.runtime;

import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Map;
import org.dgemma.runtime.engine.Tensor;

/**
 * What the options of a generation make of one step's outputs: acceptance and the draw. What they leave alone stays as the
 * graph gave it. N canvas, K candidates.
 */
final class Steering {
    private final Manifest manifest;
    private final Map<String, Tensor> results;
    private final long[] ids;
    private final float[] logProbs;
    private SamplerOptions options = SamplerOptions.EXPORTED;

    /** @param results what a step puts out, with candidates where the graph has them */
    Steering(Manifest manifest, Map<String, Tensor> results) {
        this.manifest = manifest;
        this.results = results;
        Tensor likeliest = results.get("likeliest");
        int size = likeliest == null ? 0 : (int) likeliest.size(2);
        ids = new long[size];
        logProbs = new float[size];
    }

    void reset(SamplerOptions options) {
        this.options = options;
    }

    /**
     * Decides the rows of a step, whose values are the first of each array.
     *
     * @param rows their positions
     * @param words [2N] of all positions
     */
    void decide(int[] rows, float temperature, long[] words, int[] argmax, float[] entropy, boolean[] accepted, int[] canvas) {
        boolean greedy = temperature == (float) SamplerOptions.GREEDY;
        double exported = manifest.sampler.entropyBound;
        double bound = options.entropyBound == null ? exported : options.entropyBound;
        if (!greedy && !options.cuts() && bound == exported) {
            return;
        }
        boolean[] own = bound == exported ? null : accept(entropy, rows.length, bound);
        for (int i = 0; i < rows.length; i++) {
            boolean before = accepted[i];
            accepted[i] = own == null ? before : own[i] && (before || bound > exported);
            if (accepted[i]) {
                canvas[i] = greedy ? argmax[i]
                        : options.cuts() ? draw(i, words[rows[i]])
                        : before ? canvas[i] : drawn(i);
            } else if (before) {
                canvas[i] = (int) Noise.token(words[words.length / 2 + rows[i]], manifest.model.vocabSize);
            }
        }
    }

    private int drawn(int row) {
        return (int) results.get("drawn").data.asLongBuffer().get(row);
    }

    private int draw(int row, long word) {
        LongBuffer likeliest = results.get("likeliest").data.asLongBuffer();
        FloatBuffer values = results.get("log_probs").data.asFloatBuffer();
        for (int k = 0; k < ids.length; k++) {
            ids[k] = likeliest.get(row * ids.length + k);
            logProbs[k] = values.get(row * ids.length + k);
        }
        CutDraw.sort(ids, logProbs);
        return (int) CutDraw.draw(ids, logProbs, CutDraw.kept(logProbs, options), word);
    }

    /** Which of the first entropies are accepted: those ahead (smaller, or equal before it) sum to at most the bound. */
    static boolean[] accept(float[] entropy, int count, double bound) {
        boolean[] found = new boolean[count];
        for (int i = 0; i < count; i++) {
            double ahead = 0;
            for (int j = 0; j < count; j++) {
                ahead += entropy[j] < entropy[i] || entropy[j] == entropy[i] && j < i ? entropy[j] : 0;
            }
            found[i] = ahead <= bound;
        }
        return found;
    }
}
