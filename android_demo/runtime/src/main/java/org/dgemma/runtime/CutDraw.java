package org.dgemma.runtime;

import java.util.function.IntToDoubleFunction;

/**
 * The draw among a position's likeliest ids, cut by rank, mass or share, and tilted by a bias on ids: the contract of
 * docs/design/sampling.md. K candidates.
 */
final class CutDraw {
    private CutDraw() {}

    /** Sorts candidates by falling log-probability, and of equal ones the lower id first. */
    static void sort(long[] ids, float[] logProbs) {
        for (int i = 1; i < ids.length; i++) {
            long id = ids[i];
            float value = logProbs[i];
            int at = i;
            while (at > 0 && (logProbs[at - 1] < value || logProbs[at - 1] == value && ids[at - 1] > id)) {
                ids[at] = ids[at - 1];
                logProbs[at] = logProbs[at - 1];
                at--;
            }
            ids[at] = id;
            logProbs[at] = value;
        }
    }

    /**
     * Adds biases to the logits of candidates and sorts them again; log-probabilities become those among the candidates,
     * negative infinity for what is banned.
     *
     * @param biases what is added to the logit of an id
     * @return whether any of them has a bias; if not, nothing is changed
     */
    static boolean tilt(long[] ids, float[] logProbs, IntToDoubleFunction biases, double temperature) {
        boolean touched = false;
        double most = Double.NEGATIVE_INFINITY;
        double[] lifted = new double[ids.length];
        for (int k = 0; k < ids.length; k++) {
            double bias = biases.applyAsDouble((int) ids[k]);
            touched |= bias != 0;
            lifted[k] = logProbs[k] + bias / temperature;
            most = Math.max(most, lifted[k]);
        }
        if (!touched) {
            return false;
        }
        double sum = 0;
        for (double each : lifted) {
            sum += most == Double.NEGATIVE_INFINITY ? 0 : Math.exp(each - most);
        }
        double total = sum == 0 ? 0 : most + Math.log(sum);
        for (int k = 0; k < ids.length; k++) {
            logProbs[k] = (float) (lifted[k] - total);
        }
        sort(ids, logProbs);
        return true;
    }

    /** Which of the sorted candidates a draw may take: the first, unless all are banned, and what the options keep. */
    static boolean[] kept(float[] logProbs, SamplerOptions options) {
        boolean[] found = new boolean[logProbs.length];
        double mass = 0;
        for (int rank = 0; rank < found.length; rank++) {
            double value = logProbs[rank];
            found[rank] = value > Double.NEGATIVE_INFINITY
                    && (options.topK == null || rank < options.topK)
                    && (options.topP == null || mass < options.topP)
                    && (options.minP == null || value >= logProbs[0] + Math.log(options.minP));
            mass += Math.exp(value);
        }
        return found;
    }

    /** The id that a word draws of the sorted candidates that are kept, of which there is one at least. */
    static long draw(long[] ids, float[] logProbs, boolean[] kept, long word) {
        int count = 0;
        long[] byId = new long[ids.length];
        float[] weights = new float[ids.length];
        for (int i = 0; i < ids.length; i++) {
            if (!kept[i]) {
                continue;
            }
            int at = count++;
            while (at > 0 && byId[at - 1] > ids[i]) {
                byId[at] = byId[at - 1];
                weights[at] = weights[at - 1];
                at--;
            }
            byId[at] = ids[i];
            weights[at] = (float) Math.exp((double) logProbs[i] - logProbs[0]);
        }
        double total = 0;
        for (int i = 0; i < count; i++) {
            total += weights[i];
        }
        double target = Noise.uniform(word) * total;
        double running = 0;
        for (int i = 0; i < count; i++) {
            running += weights[i];
            if (running > target) {
                return byId[i];
            }
        }
        return byId[count - 1];
    }
}
