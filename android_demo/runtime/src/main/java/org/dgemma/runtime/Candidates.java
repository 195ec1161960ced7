package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The likeliest ids of every position of a canvas, as the step that last ran it left them. N canvas, K candidates. */
final class Candidates {
    private final int size;
    private final long[] ids;
    private final float[] logProbs;

    Candidates(int positions, int size) {
        this.size = size;
        ids = new long[positions * size];
        logProbs = new float[positions * size];
        clear();
    }

    void clear() {
        Arrays.fill(ids, 0);
        Arrays.fill(logProbs, Float.NEGATIVE_INFINITY);
    }

    /** Keeps what a position has, sorted: both [K]. */
    void put(int position, long[] theirs, float[] values) {
        System.arraycopy(theirs, 0, ids, position * size, size);
        System.arraycopy(values, 0, logProbs, position * size, size);
    }

    /** Makes a position's id certain. */
    void pin(int position, int id) {
        if (size > 0) {
            Arrays.fill(logProbs, position * size, (position + 1) * size, Float.NEGATIVE_INFINITY);
            ids[position * size] = id;
            logProbs[position * size] = 0;
        }
    }

    /** Of each of these ids at its position, with the {@code count} likeliest beside it. */
    List<TokenLogprob> of(int[] canvas, int width, int count) {
        List<TokenLogprob> found = new ArrayList<>();
        for (int position = 0; position < width; position++) {
            double own = Double.NEGATIVE_INFINITY;
            Map<Integer, Double> top = new LinkedHashMap<>();
            for (int k = 0; k < size; k++) {
                int id = (int) ids[position * size + k];
                double value = logProbs[position * size + k];
                own = id == canvas[position] ? value : own;
                if (k < count && value != Double.NEGATIVE_INFINITY) {
                    top.put(id, value);
                }
            }
            found.add(new TokenLogprob(canvas[position], own, top));
        }
        return found;
    }
}
