package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.dgemma.runtime.structure.StructuredAnswer;
import org.jspecify.annotations.Nullable;

/** What a generation has done so far; becomes its Result. */
final class Progress {
    final int most;
    /** Of {@link System#nanoTime}. */
    final long started;
    /** Of the engine's seconds what it had when the generation began. */
    double nativeS;
    final IntList tokens = new IntList();
    /** How many padding tokens {@link #tokens} ends with where no stop token was given. */
    int pads;
    int steps;
    int canvases;
    int positionForwards;
    int prefillPositionForwards;
    double loadS;
    double prefillS;
    double denoiseS;
    double commitS;
    /** Of each token, in nats. */
    float[] entropies = {};
    /** Of each token, where they are wanted. */
    List<TokenLogprob> logprobs = new ArrayList<>();
    /** Of each choice, in nats, where they are wanted; null after a cancel. */
    double @Nullable [] choiceLogProbabilities;
    /** The language that the answer must be of; null for any text. */
    @Nullable StructuredAnswer structured;
    /** Where the text ends early; null where it does not. */
    @Nullable StopStrings stopStrings;
    /** One line each. */
    final List<String> warnings = new ArrayList<>();
    @Nullable Trajectory trajectory;
    StopReason reason = StopReason.CANCELLED;
    private final int[] stops;

    Progress(int most, int[] stops, long started, double nativeS) {
        this.most = most;
        this.stops = stops;
        this.started = started;
        this.nativeS = nativeS;
    }

    /**
     * Takes ids up to the first stop token or the limit; the first {@link #gained} of them belong to the prefix.
     *
     * @return why the generation ends, null when it goes on
     */
    @Nullable StopReason accept(int[] ids) {
        int end = visible(ids, stops);
        int room = most - tokens.size();
        int taken = Math.min(end, room);
        tokens.add(ids, taken);
        gained = taken;
        int stay = stopStrings == null ? tokens.size() : stopStrings.kept(tokens.toArray());
        if (stopStrings != null && stopStrings.found != null) {
            gained = stay - (tokens.size() - taken); // below 0 where it ends in an earlier canvas
            tokens.truncate(stay);
            return StopReason.STOP;
        }
        if (end < ids.length && end <= room) {
            gained = taken + 1;
            return StopReason.STOP;
        }
        return tokens.size() == most ? StopReason.LENGTH : null;
    }

    /**
     * Takes a template's canvas: its first {@code length} ids, whatever its holes hold, and for the prefix the stop token
     * behind them. The answer is whole where the template ends.
     */
    @Nullable StopReason fill(int[] canvas, int length, boolean ends) {
        tokens.add(canvas, length);
        gained = length + (length < canvas.length && contains(stops, canvas[length]) ? 1 : 0);
        return ends ? StopReason.STOP : null;
    }

    /** Adds the entropies of the canvas that was taken last; those of tokens that are there stay. */
    void addEntropies(float[] canvas, int width) {
        int before = entropies.length;
        float[] all = Arrays.copyOf(entropies, before + width);
        System.arraycopy(canvas, 0, all, before, width);
        entropies = Arrays.copyOf(all, Math.min(all.length, tokens.size()));
    }

    /**
     * Ids that the prefix gains by the last {@link #accept}: what was taken, and the stop token if there was one. It may lose
     * some, where a stop string begins before them.
     */
    int gained;

    /** How many ids come before the first stop token. */
    static int visible(int[] ids, int[] stops) {
        for (int i = 0; i < ids.length; i++) {
            if (contains(stops, ids[i])) {
                return i;
            }
        }
        return ids.length;
    }

    static boolean contains(int[] ids, int id) {
        for (int each : ids) {
            if (each == id) {
                return true;
            }
        }
        return false;
    }
}
