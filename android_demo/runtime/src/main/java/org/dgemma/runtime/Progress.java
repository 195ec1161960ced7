package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** What a generation has done so far; becomes its Result. */
final class Progress {
    final int most;
    final IntList tokens = new IntList();
    int steps;
    int canvases;
    int positionForwards;
    int prefillPositionForwards;
    double loadS;
    double prefillS;
    double denoiseS;
    double commitS;
    /** Of each token, where they are wanted. */
    List<TokenLogprob> logprobs = new ArrayList<>();
    /** Where the text ends early; null where it does not. */
    @Nullable StopStrings stopStrings;
    private final int[] stops;

    Progress(int most, int[] stops) {
        this.most = most;
        this.stops = stops;
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
