package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Collects steps while they run; copies, for steps are reused. */
final class Recorder {
    private final double exported;
    private final IntList canvases = new IntList();
    private final List<DenoisingStep> rows = new ArrayList<>();

    /** @param exported the bundle's entropy bound, in nats */
    Recorder(double exported) {
        this.exported = exported;
    }

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
        double[] bounds = new double[m];
        int[][] canvasIn = new int[m][];
        int[][] argmax = new int[m][];
        float[][] entropy = new float[m][];
        boolean[][] accepted = new boolean[m][];
        int[][] canvasOut = new int[m][];
        for (int i = 0; i < m; i++) {
            DenoisingStep row = rows.get(i);
            step[i] = row.remaining;
            temperature[i] = row.temperature;
            bounds[i] = row.bound;
            canvasIn[i] = row.canvasIn;
            argmax[i] = row.argmax;
            entropy[i] = row.entropy;
            accepted[i] = row.accepted;
            canvasOut[i] = row.canvasOut;
        }
        boolean own = Arrays.stream(bounds).anyMatch(bound -> bound != exported);
        return new Trajectory(
                promptIds, canvasIndex, step, temperature, own ? bounds : null, canvasIn, argmax, entropy, accepted, canvasOut,
                tokens);
    }
}
