package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.List;

/** Collects steps while they run; copies, for steps are reused. */
final class Recorder {
    private final IntList canvases = new IntList();
    private final List<DenoisingStep> rows = new ArrayList<>();

    void add(int canvas, DenoisingStep step) {
        canvases.add(canvas);
        rows.add(step.copy());
    }

    /** All steps added so far. */
    Trajectory finish(int[] promptIds, int[] tokens) {
        int m = rows.size();
        int[] canvasIndex = canvases.toArray();
        int[] step = new int[m];
        float[] temperature = new float[m];
        int[][] canvasIn = new int[m][];
        int[][] argmax = new int[m][];
        float[][] entropy = new float[m][];
        boolean[][] accepted = new boolean[m][];
        int[][] canvasOut = new int[m][];
        for (int i = 0; i < m; i++) {
            DenoisingStep row = rows.get(i);
            step[i] = row.remaining;
            temperature[i] = row.temperature;
            canvasIn[i] = row.canvasIn;
            argmax[i] = row.argmax;
            entropy[i] = row.entropy;
            accepted[i] = row.accepted;
            canvasOut[i] = row.canvasOut;
        }
        return new Trajectory(
                promptIds, canvasIndex, step, temperature, canvasIn, argmax, entropy, accepted, canvasOut, tokens);
    }
}
