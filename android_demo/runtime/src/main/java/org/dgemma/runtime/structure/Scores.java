package org.dgemma.runtime.structure;

import java.util.Arrays;

/** What a step says of every position. N positions, K candidates. */
public final class Scores {
    private static final double LEAST = -1e30; // stands for a probability of 0, so that sums stay finite
    private static final double ROUNDING = 0x1p-24; // of a sum of float32 probabilities

    /** [N][K] the likeliest ids. */
    final int[][] ids;
    /** [N][K] nats. */
    final double[][] logProbs;
    /** [N] the score of any other id; negative infinity where there may be none. */
    final double[] floor;

    /** Of positions that are set later. */
    public Scores(int positions) {
        ids = new int[positions][];
        logProbs = new double[positions][];
        floor = new double[positions];
    }

    /**
     * Sets a position to what a step over {@code vocab} ids says of it: [K] ids and their log-probabilities.
     *
     * <p>The floor is the mean probability of the ids that are no candidates, but no more than the least candidate's.
     */
    public void set(int position, long[] likeliest, float[] values, int vocab) {
        int[] them = new int[values.length];
        double[] own = new double[values.length];
        double sum = 0;
        double least = Double.POSITIVE_INFINITY;
        for (int k = 0; k < own.length; k++) {
            them[k] = (int) likeliest[k];
            own[k] = Math.max(values[k], LEAST);
            sum += Math.exp(own[k]);
            least = Math.min(least, own[k]);
        }
        int others = vocab - own.length;
        double rest = others > 0 ? Math.log(Math.max(1 - sum, ROUNDING) / others) : Double.POSITIVE_INFINITY;
        ids[position] = them;
        logProbs[position] = own;
        floor[position] = Math.min(least, rest);
    }

    /** Nothing but one id is possible at a position. */
    void pin(int position, int id) {
        ids[position] = new int[] {id};
        logProbs[position] = new double[] {0};
        floor[position] = Double.NEGATIVE_INFINITY;
    }

    int positions() {
        return ids.length;
    }

    /** The score of an id at a position. */
    double of(int position, int id) {
        for (int k = 0; k < ids[position].length; k++) {
            if (ids[position][k] == id) {
                return logProbs[position][k];
            }
        }
        return floor[position];
    }

    /** Of a few ids in rising order the likeliest at a position; of equal ones the lowest. */
    int best(int position, int[] few) {
        int best = few[0];
        for (int id : few) {
            best = of(position, id) > of(position, best) ? id : best;
        }
        return best;
    }

    /** All ids that are candidates anywhere. */
    int[] known() {
        return Arrays.stream(ids).flatMapToInt(Arrays::stream).distinct().toArray();
    }
}
