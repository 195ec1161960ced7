package org.dgemma.runtime.engine;

import java.util.Arrays;

/**
 * What is kept of tempered logits, tile by tile: sums of blocks, maxima, moments and the likeliest ids of every row. A tile's
 * figures are relative to its own maximum until {@link #join}. R rows, K candidates.
 */
final class TileFigures {
    /** Where a draw falls. */
    static final class Draw {
        int tile;
        /** Id that the block begins with. */
        int first;
        double target;
        /** Running sum in front of the block. */
        double before;
    }

    private final int[][] tiles;
    private final int kept;
    private final int blocks;
    /** [R][blocks of all tiles]. */
    private final float[][] sums;
    private final float[][] maxima;
    private final double[][] moments;
    private final float[] maximum;
    private final double[] total;
    private final double[] moment;
    private final float[][] best;
    private final int[][] ids;

    TileFigures(int rows, int[][] tiles, int kept) {
        this.tiles = tiles;
        this.kept = kept;
        blocks = count(tiles[tiles.length - 1][1]);
        sums = new float[rows][blocks];
        maxima = new float[tiles.length][rows];
        moments = new double[tiles.length][rows];
        maximum = new float[rows];
        total = new double[rows];
        moment = new double[rows];
        best = new float[rows][kept];
        ids = new int[rows][kept];
        Arrays.fill(maximum, Float.NEGATIVE_INFINITY);
        for (float[] row : best) {
            Arrays.fill(row, Float.NEGATIVE_INFINITY);
        }
    }

    private static int count(int ids) {
        return (ids + HostSampler.BLOCK - 1) / HostSampler.BLOCK;
    }

    /** Take a row of a tile [t], and replace its tempered logits by weights relative to their maximum. */
    void add(int tile, int row, float[] tempered, int size) {
        int first = tiles[tile][0];
        float most = Float.NEGATIVE_INFINITY;
        for (int i = 0; i < size; i++) {
            most = Math.max(most, tempered[i]);
            if (tempered[i] > best[row][kept - 1]) {
                keep(row, tempered[i], first + i);
            }
        }
        double weighted = 0;
        for (int begin = 0; begin < size; begin += HostSampler.BLOCK) {
            double sum = 0;
            int end = Math.min(size, begin + HostSampler.BLOCK);
            for (int i = begin; i < end; i++) {
                float shifted = tempered[i] - most;
                tempered[i] = (float) Math.exp(shifted);
                sum += tempered[i];
                weighted += tempered[i] * shifted;
            }
            sums[row][(first + begin) / HostSampler.BLOCK] = (float) sum;
        }
        maxima[tile][row] = most;
        moments[tile][row] = weighted;
        maximum[row] = Math.max(maximum[row], most);
    }

    /** Ids come in ascending order, so that of equal ones the first stays in front. */
    private void keep(int row, float value, int id) {
        int at = kept - 1;
        while (at > 0 && value > best[row][at - 1]) {
            best[row][at] = best[row][at - 1];
            ids[row][at] = ids[row][at - 1];
            at--;
        }
        best[row][at] = value;
        ids[row][at] = id;
    }

    float maximum(int row) {
        return maximum[row];
    }

    float maximum(int tile, int row) {
        return maxima[tile][row];
    }

    /** All tiles are in: make everything relative to each row's maximum. */
    void join() {
        for (int row = 0; row < maximum.length; row++) {
            for (int tile = 0; tile < tiles.length; tile++) {
                double lower = maxima[tile][row] - maximum[row];
                float growth = (float) Math.exp(lower);
                double own = 0;
                for (int block = tiles[tile][0] / HostSampler.BLOCK; block < count(tiles[tile][1]); block++) {
                    own += sums[row][block];
                    sums[row][block] *= growth;
                    total[row] += sums[row][block];
                }
                moment[row] += (moments[tile][row] + own * lower) * growth;
            }
        }
    }

    /** Sum of the row's weights. */
    double total(int row) {
        return total[row];
    }

    /** In nats. */
    float entropy(int row) {
        return (float) (Math.log(total[row]) - moment[row] / total[row]);
    }

    /** The row's likeliest ids and their log-probabilities, to [R, K] both. */
    void candidates(int row, long[] likeliest, float[] logProbs) {
        double log = Math.log(total[row]);
        for (int k = 0; k < kept; k++) {
            likeliest[row * kept + k] = ids[row][k];
            logProbs[row * kept + k] = (float) (best[row][k] - best[row][0] - log);
        }
    }

    /** The first block whose running sum is above {@code uniform} of all; the last one where rounding leaves none. */
    Draw draw(int row, double uniform) {
        double all = 0;
        for (float sum : sums[row]) {
            all += sum;
        }
        Draw draw = new Draw();
        draw.target = uniform * all;
        double running = 0;
        int block = 0;
        for (; block < blocks - 1 && running + sums[row][block] <= draw.target; block++) {
            running += sums[row][block];
        }
        draw.before = running;
        draw.first = block * HostSampler.BLOCK;
        while (tiles[draw.tile][1] <= draw.first) {
            draw.tile++;
        }
        return draw;
    }
}
