package org.dgemma.runtime;

import org.dgemma.DgemmaException;

/**
 * Told of a generation that {@link Session#start} runs. Calls come from the session's thread, one after another.
 *
 * <p>Exactly one of {@link #onDone}, {@link #onCancelled} and {@link #onFailed} is called, last. What {@code onStep} or
 * {@code onText} throws ends the generation with {@code onFailed}.
 */
public interface GenerationListener {
    /** A denoising step has run. The event's arrays are the listener's to keep. */
    default void onStep(StepEvent event) {}

    /**
     * Committed text, in order, cut at code-point borders; joined it is {@link Result#text}, where the chat template has
     * thoughts or tools but for white space at its start. Thoughts, calls and markers are no text; a malformed call becomes
     * text once it has ended.
     */
    default void onText(String piece) {}

    void onDone(Result result);

    /** The result holds what was committed before; the prefix is as it was before the canvas in work. */
    default void onCancelled(Result result) {}

    void onFailed(DgemmaException error);
}
