package org.dgemma.runtime.structure;

/** How a bundle's model writes calls of tools, as far as a compiled structure of one needs it. */
public final class CallForm {
    final String form;
    /** How no value is written. */
    final String none;
    /** Ids without text: what begins and ends a call, and the quote. */
    final int[] markers;

    public CallForm(String form, String none, int... markers) {
        this.form = form;
        this.none = none;
        this.markers = markers;
    }
}
