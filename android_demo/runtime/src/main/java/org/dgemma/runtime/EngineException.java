package org.dgemma.runtime;

import org.dgemma.DgemmaException;

/** An engine is unknown, not on the class path, not in the bundle, or it refused a graph. */
public class EngineException extends DgemmaException {
    private static final long serialVersionUID = 1L;

    public EngineException(String message) {
        super(message);
    }

    public EngineException(String message, Throwable cause) {
        super(message, cause);
    }
}
