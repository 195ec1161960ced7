package org.dgemma.runtime;

/** One denoising step as the engine returned it; one object a session, filled again by every step. N canvas. */
final class DenoisingStep {
    /** Denoising steps run on this canvas so far, from 1. */
    int number;
    /** Steps remaining when it ran, T…1. */
    int remaining;
    /** Positions that went through the stack, twice where the step is guided. */
    int rows;
    /** Positions that the canvas has so far. */
    int width;
    float temperature;
    /** On entropies, in nats. */
    double bound;
    /** [N] what the step read. */
    final int[] canvasIn;
    /** [N] */
    final int[] argmax;
    /** [N] nats. */
    final float[] entropy;
    /** [N] */
    final boolean[] accepted;
    /** [N] the next step's input. */
    final int[] canvasOut;

    DenoisingStep(int canvasLength) {
        this(new int[canvasLength], new int[canvasLength], new float[canvasLength], new boolean[canvasLength],
                new int[canvasLength]);
    }

    private DenoisingStep(int[] canvasIn, int[] argmax, float[] entropy, boolean[] accepted, int[] canvasOut) {
        rows = canvasIn.length;
        width = canvasIn.length;
        this.canvasIn = canvasIn;
        this.argmax = argmax;
        this.entropy = entropy;
        this.accepted = accepted;
        this.canvasOut = canvasOut;
    }

    DenoisingStep copy() {
        DenoisingStep copy = new DenoisingStep(
                canvasIn.clone(), argmax.clone(), entropy.clone(), accepted.clone(), canvasOut.clone());
        copy.number = number;
        copy.remaining = remaining;
        copy.rows = rows;
        copy.width = width;
        copy.temperature = temperature;
        copy.bound = bound;
        return copy;
    }

    /** Told of every step; false ends the canvas. */
    interface Sink {
        boolean accept(DenoisingStep step);
    }
}
