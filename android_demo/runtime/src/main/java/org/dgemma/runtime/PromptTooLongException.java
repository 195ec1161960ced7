package org.dgemma.runtime;

import org.dgemma.DgemmaException;

/** Prompt, committed tokens and one canvas do not fit into the context. */
public class PromptTooLongException extends DgemmaException {
    private static final long serialVersionUID = 1L;

    public PromptTooLongException(String message) {
        super(message);
    }

    public PromptTooLongException(String message, Throwable cause) {
        super(message, cause);
    }
}
