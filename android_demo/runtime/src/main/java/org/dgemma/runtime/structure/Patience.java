package org.dgemma.runtime.structure;

import java.util.function.BooleanSupplier;

/**
 * How long a structure may take to compile, and whether anybody still waits for it. It knows nothing of what is compiled: the
 * work asks at every stage, and throws what it is told.
 */
final class Patience {
    /** For one structure, on a slow device too. */
    static final double SECONDS = 60;
    /** How often {@link #poll} looks at the clock. */
    private static final int POLLS = 1024;

    private final BooleanSupplier cancelled;
    private final long until;
    private int polls;

    /** The time is up. */
    static final class Late extends RuntimeException {
        private static final long serialVersionUID = 1L;
    }

    Patience(BooleanSupplier cancelled) {
        this(cancelled, SECONDS);
    }

    Patience(BooleanSupplier cancelled, double seconds) {
        this.cancelled = cancelled;
        until = System.nanoTime() + (long) (seconds * 1e9);
    }

    /** Throws Cancelled, Late. */
    void check() {
        if (cancelled.getAsBoolean()) {
            throw new Cancelled();
        }
        if (System.nanoTime() - until > 0) {
            throw new Late();
        }
    }

    /** {@link #check}, now and then: for short pieces of work. */
    void poll() {
        if (++polls % POLLS == 0) {
            check();
        }
    }
}
