package org.dgemma.runtime;

import org.dgemma.DgemmaException;

/** A session was asked for a second generation, or used after close. */
public class SessionBusyException extends DgemmaException {
    private static final long serialVersionUID = 1L;

    public SessionBusyException(String message) {
        super(message);
    }

    public SessionBusyException(String message, Throwable cause) {
        super(message, cause);
    }
}
