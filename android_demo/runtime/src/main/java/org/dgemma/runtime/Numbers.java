package org.dgemma.runtime;

import org.dgemma.runtime.engine.Engine;
import org.jspecify.annotations.Nullable;

/** NaN from the model is one error, whichever loop sees it: tokens drawn from it would look like an answer. */
final class Numbers {
    private Numbers() {}

    /** Throws EngineException where a value is NaN; {@code where} says what gave it. */
    static void check(Engine engine, float[] values, String where) {
        for (float value : values) {
            if (Float.isNaN(value)) {
                throw error(engine, where, null);
            }
        }
    }

    static EngineException error(Engine engine, String where, @Nullable Throwable cause) {
        return new EngineException(engine.name() + " " + engine.version() + ": the model's output is not a number (NaN) in "
                + where + "; a weight is damaged or a value overflows: check the bundle with `dgemma verify`, or export it "
                + "again with another recipe", cause);
    }
}
