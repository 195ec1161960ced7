package org.dgemma.runtime.engine;

import java.nio.FloatBuffer;

/**
 * One pass through the layers of an accelerator, whose graphs have fixed shapes: rows are filled up to a width and prefixes to a
 * length, and masks hide the filling. M rows of a graph, N canvas.
 */
final class StaticPass {
    /** Added to the score of a key that must not be seen; float16 holds it, and exp of it is 0. */
    static final float HIDDEN = -1e4f;

    /** Rows that count, of {@code rows}. */
    int n;
    int rows;
    /** Tokens that the prefix holds. */
    int length;
    /** Of the prefix as it is handed in, for full and for sliding layers, which have the last of them. */
    int slots;
    int local;
    /** Whether rows see each other both ways. */
    boolean canvas;
    /** Of the rows behind the prefix, [n]. */
    int[] positions;
    /** [N], slots behind the prefix that are seen as well. */
    boolean[] settled;

    /** cos and sin [M, 1, d/2] of the rows' positions. */
    void rotations(float[] frequencies, FloatBuffer cos, FloatBuffer sin) {
        int width = frequencies.length;
        for (int row = 0; row < rows; row++) {
            float place = row < n ? positions[row] + length : 0;
            for (int i = 0; i < width; i++) {
                float angle = place * frequencies[i];
                cos.put(row * width + i, (float) Math.cos(angle));
                sin.put(row * width + i, (float) Math.sin(angle));
            }
        }
    }

    /**
     * What is added to scores, [M, room + M].
     *
     * @param room slots of the graph
     * @param window of a sliding layer; 0 for a full one
     */
    void bias(int room, int window, FloatBuffer bias) {
        int filled = window == 0 ? slots : local;
        int width = room + rows;
        for (int row = 0; row < rows; row++) {
            for (int i = 0; i < room; i++) {
                boolean seen = i < filled && seesPrefix(row, i + slots - filled, window);
                bias.put(row * width + i, seen ? 0 : HIDDEN);
            }
            for (int other = 0; other < rows; other++) {
                bias.put(row * width + room + other, seesRow(row, other, window) ? 0 : HIDDEN);
            }
        }
    }

    /** @param slot the position that a slot holds */
    private boolean seesPrefix(int row, int slot, int window) {
        if (canvas) {
            int behind = slot - length;
            boolean there = behind < 0 || behind < settled.length && settled[behind];
            return there && (window == 0 || slot >= length - (window - 1));
        }
        return slot < length && (window == 0 || slot > row + length - window);
    }

    private boolean seesRow(int row, int other, int window) {
        if (canvas) {
            return other < n || other == row;
        }
        return other <= row && (window == 0 || other > row - window);
    }
}
