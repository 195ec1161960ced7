package org.dgemma.runtime;

import org.jspecify.annotations.Nullable;

/**
 * Every denoising step of one generation, in order: M steps over all canvases of N tokens; as the bundle tools trace
 * it.
 */
public final class Trajectory {
    /** [P] ids that the generation started from. */
    public final int[] promptIds;
    /** [M] number of the canvas, from 0. */
    public final int[] canvasIndex;
    /** [M] denoising steps remaining, T…1 within each canvas. */
    public final int[] step;
    /** [M] */
    public final float[] temperature;
    /** [M] nats, where the generation had other bounds than the bundle's. */
    public final double @Nullable [] entropyBound;
    /** [M][N] what the step read. */
    public final int[][] canvasIn;
    /** [M][N] */
    public final int[][] argmax;
    /** [M][N] nats. */
    public final float[][] entropy;
    /** [M][N] */
    public final boolean[][] accepted;
    /** [M][N] the next canvas. */
    public final int[][] canvasOut;
    /** [K] committed tokens. */
    public final int[] tokens;

    Trajectory(
            int[] promptIds, int[] canvasIndex, int[] step, float[] temperature, double @Nullable [] entropyBound,
            int[][] canvasIn, int[][] argmax, float[][] entropy, boolean[][] accepted, int[][] canvasOut, int[] tokens) {
        this.promptIds = promptIds;
        this.canvasIndex = canvasIndex;
        this.step = step;
        this.temperature = temperature;
        this.entropyBound = entropyBound;
        this.canvasIn = canvasIn;
        this.argmax = argmax;
        this.entropy = entropy;
        this.accepted = accepted;
        this.canvasOut = canvasOut;
        this.tokens = tokens;
    }
}
