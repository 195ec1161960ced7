package org.dgemma.runtime;

import java.util.Locale;

/** Why a generation ended. */
public enum StopReason {
    /** A stop token was committed. */
    STOP,
    /** The limit of new tokens was reached. */
    LENGTH,
    /** No canvas fits into the context any more. */
    CONTEXT,
    /** Somebody called cancel; the canvas in work was dropped. */
    CANCELLED;

    /** The word that the bundle tools use in JSON: stop, length, context or cancelled. */
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }
}
