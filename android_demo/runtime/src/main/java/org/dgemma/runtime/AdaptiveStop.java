package org.dgemma.runtime;

/**
 * The adaptive stop of one canvas: the argmax canvas unchanged for {@code stabilityThreshold} steps, and the mean
 * entropy below {@code confidenceThreshold}.
 */
final class AdaptiveStop {
    private static final int BLOCK = 128;

    private final Manifest.SamplerConfig sampler;
    private final int[] last;
    private int stability;
    private double confidence;
    /** Positions of the last step, 0 before the first one. */
    private int lastWidth;
    private int stable;

    AdaptiveStop(Manifest.SamplerConfig sampler, int canvasLength) {
        this.sampler = sampler;
        last = new int[canvasLength];
        reset(SamplerOptions.EXPORTED);
    }

    /** Before the first step of a canvas. */
    void reset(SamplerOptions options) {
        stability = options.stability(sampler);
        confidence = options.confidence(sampler);
        lastWidth = 0;
        stable = 0;
    }

    /** Whether the canvas ends after this step. It has its first {@code width} positions, the others are certain. */
    boolean ends(int[] argmax, float[] entropy, int width) {
        boolean same = width == lastWidth;
        for (int i = 0; i < width && same; i++) {
            same = argmax[i] == last[i];
        }
        stable = same ? stable + 1 : 0;
        lastWidth = width;
        System.arraycopy(argmax, 0, last, 0, width);
        return stable >= stability && sum(entropy, width) / last.length < confidence;
    }

    /**
     * Sum of the first values in float64, pairwise in numpy's order ({@code pairwise_sum} of {@code loops_utils.h}), so that
     * a mean at the threshold falls on the same side as in the Python runtime, to the last bit.
     */
    static double sum(float[] values, int count) {
        return pairwiseSum(values, 0, count);
    }

    private static double pairwiseSum(float[] v, int start, int n) {
        if (n > BLOCK) {
            int half = n / 2;
            half -= half % 8;
            return pairwiseSum(v, start, half) + pairwiseSum(v, start + half, n - half);
        }
        int i = start;
        int end = start + n;
        double sum = 0;
        if (n >= 8) {
            double[] r = new double[8];
            for (; i + 8 <= end; i += 8) {
                for (int j = 0; j < 8; j++) {
                    r[j] += v[i + j];
                }
            }
            sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
        }
        for (; i < end; i++) {
            sum += v[i];
        }
        return sum;
    }
}
