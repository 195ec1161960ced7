package org.dgemma.runtime;

import org.dgemma.DgemmaException;

/** What a listener is told of an error of any kind. */
final class Failure {
    private Failure() {}

    static DgemmaException of(Throwable error) {
        if (error instanceof DgemmaException) {
            return (DgemmaException) error;
        }
        if (error instanceof OutOfMemoryError) {
            return new EngineException("out of memory; close other programs, or use a smaller bundle", error);
        }
        String line = error.toString().split("\\R", 2)[0];
        return new DgemmaException(
                "the generation ended with " + line + "; if the listener threw it, catch it there", error);
    }
}
