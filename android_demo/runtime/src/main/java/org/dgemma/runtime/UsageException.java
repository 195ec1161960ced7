package org.dgemma.runtime;

import org.dgemma.DgemmaException;

/** An option or argument has a value that cannot be used. */
public class UsageException extends DgemmaException {
    private static final long serialVersionUID = 1L;

    public UsageException(String message) {
        super(message);
    }

    public UsageException(String message, Throwable cause) {
        super(message, cause);
    }
}
