package org.dgemma.runtime;

import java.util.Arrays;
import org.dgemma.format.Json;
import org.jspecify.annotations.Nullable;

/**
 * How far a step is pushed away from what the model would say without the prompt, or without its own last step: hidden states
 * become h₋ + s · (h − h₋) before the head. Immutable.
 */
public final class Guidance {
    private static final double MOST = 100;

    final double scale;
    private final @Nullable String text;
    private final int @Nullable [] ids;
    private final int first;
    private final int last;

    private Guidance(double scale, @Nullable String text, int @Nullable [] ids, int first, int last) {
        this.scale = scale;
        this.text = text;
        this.ids = ids;
        this.first = first;
        this.last = last;
    }

    /**
     * In every step, and without a {@link #negative} prompt: h₋ then answers the same prompt, without what the last step said of
     * the positions that it did not accept.
     *
     * @param scale s, from 0 to 100; 1 changes nothing, 0 answers the negative prompt
     */
    public static Guidance of(double scale) {
        if (!(scale >= 0 && scale <= MOST)) {
            throw new UsageException("guidance " + Json.repr(scale) + " must be a number from 0 to 100; 1 changes nothing");
        }
        return new Guidance(scale, null, null, 1, Integer.MAX_VALUE);
    }

    /** The prompt that h₋ answers; it goes through the chat template, with the system turn and the tools of the prompt. */
    public Guidance negative(String prompt) {
        if (prompt == null || prompt.isEmpty()) {
            throw new UsageException("negative must be non-empty text, or ids");
        }
        return new Guidance(scale, prompt, null, first, last);
    }

    /** As above, of ids taken verbatim; they are copied. */
    public Guidance negative(int... prompt) {
        if (prompt == null || prompt.length == 0 || Arrays.stream(prompt).anyMatch(id -> id < 0)) {
            throw new UsageException("negative must be non-empty text, or ids");
        }
        return new Guidance(scale, null, prompt.clone(), first, last);
    }

    /** Guides only steps {@code first} to {@code last} of each canvas, counted from 1. */
    public Guidance steps(int first, int last) {
        if (first < 1 || last < first) {
            throw new UsageException(
                    "guidanceSteps (" + first + ", " + last + ") must be the first and the last step, such as 2 and 8");
        }
        return new Guidance(scale, text, ids, first, last);
    }

    /** The negative prompt where it is text. */
    @Nullable String text() {
        return text;
    }

    /** The negative prompt where it is ids, which must not be changed. */
    int @Nullable [] ids() {
        return ids;
    }

    /** Whether step number {@code step} of a canvas, from 1, is guided. */
    boolean guides(int step) {
        return scale != 1 && first <= step && step <= last;
    }
}
