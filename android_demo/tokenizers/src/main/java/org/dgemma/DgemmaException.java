package org.dgemma;

/**
 * Base of everything that this library throws on purpose. A message is one line: what is wrong, where, and the cure.
 *
 * <p>Unchecked, so that it passes through Kotlin lambdas and executors alike.
 */
public class DgemmaException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public DgemmaException(String message) {
        super(message);
    }

    public DgemmaException(String message, Throwable cause) {
        super(message, cause);
    }
}
