package org.dgemma.runtime.structure;

/** Cancelled while a structure was compiled. */
public final class Cancelled extends RuntimeException {
    private static final long serialVersionUID = 1L;

    Cancelled() {
        super("cancelled while the structure was compiled");
    }
}
