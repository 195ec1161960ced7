package org.dgemma.runtime;

import java.util.List;

/**
 * One denoising step's sampler, written from the contract's text: inverse CDF over blocks of 256 ids, acceptance by an
 * N × N comparison. In the library it is inside the graphs; here it lets Java read the shared vectors, and drives toy
 * engines.
 */
public final class NaiveSampler {
    static final int BLOCK = 256;

    public final int[] argmax;
    public final float[] entropy;
    public final boolean[] accepted;
    public final long[] canvas;

    /** Tempered logits [N][V]; words of the samples and of the renoising [N] each. */
    public NaiveSampler(float[][] tempered, long[] samples, long[] renoise, double bound) {
        int n = tempered.length;
        argmax = new int[n];
        entropy = new float[n];
        canvas = new long[n];
        long[] sampled = new long[n];
        for (int i = 0; i < n; i++) {
            float[] weights = weights(tempered[i]);
            entropy[i] = entropy(tempered[i], weights);
            sampled[i] = draw(weights, samples[i]);
            for (int v = 1; v < tempered[i].length; v++) {
                argmax[i] = tempered[i][v] > tempered[i][argmax[i]] ? v : argmax[i];
            }
        }
        accepted = accept(entropy, bound);
        for (int i = 0; i < n; i++) {
            canvas[i] = accepted[i] ? sampled[i] : Noise.token(renoise[i], tempered[i].length);
        }
    }

    static double uniform(long word) {
        return (word >>> 8) * 0x1p-24;
    }

    private static float[] weights(float[] logits) {
        float max = Float.NEGATIVE_INFINITY;
        for (float logit : logits) {
            max = Math.max(max, logit);
        }
        float[] weights = new float[logits.length];
        for (int v = 0; v < weights.length; v++) {
            weights[v] = (float) Math.exp(logits[v] - max);
        }
        return weights;
    }

    /** Nats. */
    static float entropy(float[] logits) {
        return entropy(logits, weights(logits));
    }

    private static float entropy(float[] logits, float[] weights) {
        float max = Float.NEGATIVE_INFINITY;
        for (float logit : logits) {
            max = Math.max(max, logit);
        }
        double total = 0;
        double sum = 0;
        for (int v = 0; v < weights.length; v++) {
            total += weights[v];
            sum += weights[v] * (double) (logits[v] - max);
        }
        return (float) (Math.log(total) - sum / total);
    }

    /** The id that a word draws from weights [V] = exp(l − max). */
    static int draw(float[] weights, long word) {
        int blocks = (weights.length + BLOCK - 1) / BLOCK;
        double[] running = new double[blocks];
        for (int b = 0; b < blocks; b++) {
            float sum = 0;
            for (int v = b * BLOCK; v < Math.min(weights.length, (b + 1) * BLOCK); v++) {
                sum += weights[v];
            }
            running[b] = (b == 0 ? 0 : running[b - 1]) + sum;
        }
        double target = uniform(word) * running[blocks - 1];
        int block = 0;
        while (block < blocks - 1 && running[block] <= target) {
            block++;
        }
        int last = Math.min(weights.length, (block + 1) * BLOCK) - 1;
        double before = block == 0 ? 0 : running[block - 1];
        double inside = 0;
        for (int v = block * BLOCK; v <= last; v++) {
            inside += weights[v];
            if (before + inside > target) {
                return v;
            }
        }
        return last;
    }

    static boolean[] accept(float[] entropy, double bound) {
        boolean[] accepted = new boolean[entropy.length];
        for (int i = 0; i < entropy.length; i++) {
            double ahead = 0;
            for (int j = 0; j < entropy.length; j++) {
                if (entropy[j] < entropy[i] || entropy[j] == entropy[i] && j < i) {
                    ahead += entropy[j];
                }
            }
            accepted[i] = ahead <= bound;
        }
        return accepted;
    }

    static float[] floats(Object list) {
        List<?> values = (List<?>) list;
        float[] floats = new float[values.size()];
        for (int i = 0; i < floats.length; i++) {
            floats[i] = ((Number) values.get(i)).floatValue();
        }
        return floats;
    }
}
