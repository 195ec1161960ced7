package org.dgemma.runtime;

import java.util.Arrays;
import java.util.stream.IntStream;

/**
 * Which positions of one canvas run in a step: they leave once they are committed early, and a canvas may start narrow
 * and grow.
 *
 * <p>It is told what a step gave, and says what the next one computes. A canvas is closed when it has all its positions, or a
 * stop token among the likeliest ids. It is done when it is closed and all its positions are committed, or the adaptive stop's
 * rule holds for them. What follows a committed stop token leaves at once. N canvas, A active positions.
 */
final class ActiveSet {
    /** [N] of a position's last step; zeros where there was none. */
    final int[] argmax;
    /** [N] nats, as above. */
    final float[] entropy;
    /** [N] as above. */
    final boolean[] accepted;
    /** [N] whether a position has left the forward. */
    final boolean[] committed;

    private final int n;
    private final ComputePolicy compute;
    private final int[] stops;
    private final AdaptiveStop stop;
    private int width;
    private boolean closed = true;
    private boolean rechecking;

    ActiveSet(int n, ComputePolicy compute, Manifest.SamplerConfig sampler, int[] stops) {
        this(n, compute, sampler, SamplerOptions.EXPORTED, stops);
    }

    ActiveSet(int n, ComputePolicy compute, Manifest.SamplerConfig sampler, SamplerOptions options, int[] stops) {
        this.n = n;
        this.compute = compute;
        this.stops = stops;
        stop = new AdaptiveStop(sampler, n);
        stop.reset(options);
        width = compute.firstWidth(n);
        argmax = new int[n];
        entropy = new float[n];
        accepted = new boolean[n];
        committed = new boolean[n];
    }

    /** How many positions the canvas has so far. */
    int width() {
        return width;
    }

    /** Begins a step: the positions [A] that it computes, in order, at least one. */
    int[] begin() {
        if (!closed) {
            width = Math.min(2 * width, n);
        }
        if (allCommitted()) { // a recheck, or a fixed number of steps with some left
            Arrays.fill(committed, 0, width, false);
        }
        return IntStream.range(0, width).filter(i -> !committed[i]).toArray();
    }

    /** What a step gave for its rows, [A] each; whether the canvas is done. */
    boolean take(int[] rows, int[] newArgmax, float[] newEntropy, boolean[] newAccepted) {
        float bound = (float) compute.nats(); // numpy compares float32 with a number in float32
        for (int i = 0; i < rows.length; i++) {
            argmax[rows[i]] = newArgmax[i];
            entropy[rows[i]] = newEntropy[i];
            accepted[rows[i]] = newAccepted[i];
            committed[rows[i]] = newEntropy[i] < bound;
        }
        boolean stopSeen = Progress.visible(argmax, stops) < width;
        for (int i = 0; i < width; i++) {
            if (committed[i] && Progress.contains(stops, argmax[i])) {
                Arrays.fill(committed, i + 1, width, true);
                width = i + 1;
            }
        }
        closed = width == n || stopSeen;
        boolean still = stop.ends(argmax, entropy, width);
        boolean done = closed && (still || allCommitted());
        rechecking = done && compute.recheck && !rechecking;
        if (rechecking) {
            Arrays.fill(committed, 0, width, true);
        }
        return done && !rechecking;
    }

    private boolean allCommitted() {
        return IntStream.range(0, width).allMatch(i -> committed[i]);
    }
}
