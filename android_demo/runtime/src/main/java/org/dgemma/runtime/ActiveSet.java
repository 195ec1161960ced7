package org.dgemma.runtime;

import java.util.Arrays;
import java.util.stream.IntStream;

/**
 * Which positions of one canvas run in a step: they leave once they have settled, and a canvas may start narrow and grow.
 *
 * <p>It is told what a step gave, and says what the next one computes. A canvas is closed when it has all its positions, or a
 * stop token among the likeliest ids. It is done when it is closed and all its positions have settled, or the adaptive stop's
 * rule holds for them. What follows a stop token that has settled leaves at once. N canvas, A active positions.
 */
final class ActiveSet {
    /** [N] of a position's last step; zeros where there was none. */
    final int[] argmax;
    /** [N] nats, as above. */
    final float[] entropy;
    /** [N] as above. */
    final boolean[] accepted;
    /** [N] whether a position has left the forward. */
    final boolean[] settled;

    private final int n;
    private final Work work;
    private final int[] stops;
    private final StopRule stop;
    private int width;
    private boolean closed = true;
    private boolean repairing;

    ActiveSet(int n, Work work, Manifest.SamplerConfig sampler, int[] stops) {
        this.n = n;
        this.work = work;
        this.stops = stops;
        stop = new StopRule(sampler, n);
        width = work.firstWidth(n);
        argmax = new int[n];
        entropy = new float[n];
        accepted = new boolean[n];
        settled = new boolean[n];
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
        if (allSettled()) { // a repair, or a fixed number of steps with some left
            Arrays.fill(settled, 0, width, false);
        }
        return IntStream.range(0, width).filter(i -> !settled[i]).toArray();
    }

    /** What a step gave for its rows, [A] each; whether the canvas is done. */
    boolean take(int[] rows, int[] newArgmax, float[] newEntropy, boolean[] newAccepted) {
        float bound = (float) work.nats(); // numpy compares float32 with a number in float32
        for (int i = 0; i < rows.length; i++) {
            argmax[rows[i]] = newArgmax[i];
            entropy[rows[i]] = newEntropy[i];
            accepted[rows[i]] = newAccepted[i];
            settled[rows[i]] = newEntropy[i] < bound;
        }
        boolean stopSeen = Progress.visible(argmax, stops) < width;
        for (int i = 0; i < width; i++) {
            if (settled[i] && Progress.contains(stops, argmax[i])) {
                Arrays.fill(settled, i + 1, width, true);
                width = i + 1;
            }
        }
        closed = width == n || stopSeen;
        boolean still = stop.settled(argmax, entropy, width);
        boolean done = closed && (still || allSettled());
        repairing = done && work.repair && !repairing;
        if (repairing) {
            Arrays.fill(settled, 0, width, true);
        }
        return done && !repairing;
    }

    private boolean allSettled() {
        return IntStream.range(0, width).allMatch(i -> settled[i]);
    }
}
