package org.dgemma.demo;

import org.jspecify.annotations.Nullable;

/** What a person is shown of one denoising step; N is the canvas length. Immutable, as far as Java arrays are. */
final class Frame {
    /** Number of the canvas, from 0. */
    final int canvas;
    /** Steps run on this canvas so far, from 1. */
    final int step;
    /** Most steps that this canvas may take. */
    final int mostSteps;
    /** [N] text of the argmax canvas, a position each; empty for markers. */
    final String[] pieces;
    /** [N] 0 (certain) to 1 (as uncertain as can be): entropy over that of the uniform distribution, square root. */
    final float[] doubt;
    /** [N] */
    final boolean[] accepted;
    /** [N] differs from the step before; all false in a canvas's first step. */
    final boolean[] changed;
    /** Positions before the first stop token. */
    final int length;
    /** Committed text and this canvas up to its stop token. */
    final String text;

    private final int[] ids;

    private Frame(
            int canvas, int step, int mostSteps, int[] ids, String[] pieces, float[] doubt, boolean[] accepted,
            boolean[] changed, int length, String text) {
        this.canvas = canvas;
        this.step = step;
        this.mostSteps = mostSteps;
        this.ids = ids;
        this.pieces = pieces;
        this.doubt = doubt;
        this.accepted = accepted;
        this.changed = changed;
        this.length = length;
        this.text = text;
    }

    /**
     * @param argmax [N] ids
     * @param entropy [N] nats
     * @param stops ids that end a text
     * @param before the frame before it in this generation
     */
    static Frame of(
            int canvas, int step, int mostSteps, int[] argmax, String[] pieces, float[] entropy, boolean[] accepted,
            int vocabulary, int[] stops, String text, @Nullable Frame before) {
        int n = argmax.length;
        float[] doubt = new float[n];
        boolean[] changed = new boolean[n];
        int length = n;
        boolean known = before != null && before.canvas == canvas;
        double most = Math.log(Math.max(2, vocabulary));
        for (int i = 0; i < n; i++) {
            doubt[i] = (float) Math.sqrt(Math.min(1.0, Math.max(0.0, entropy[i] / most)));
            changed[i] = known && before.ids[i] != argmax[i];
            if (length == n && contains(stops, argmax[i])) {
                length = i;
            }
        }
        return new Frame(canvas, step, mostSteps, argmax, pieces, doubt, accepted, changed, length, text);
    }

    /** Positions that the sampler accepted. */
    int accepted() {
        int count = 0;
        for (boolean one : accepted) {
            count += one ? 1 : 0;
        }
        return count;
    }

    private static boolean contains(int[] ids, int id) {
        for (int one : ids) {
            if (one == id) {
                return true;
            }
        }
        return false;
    }
}
