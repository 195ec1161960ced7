package org.dgemma.runtime;

import java.util.Locale;

/** Who runs the denoising steps of a canvas; the tokens are the same. */
public enum Loop {
    /** One call of the graph {@code denoise} a step. */
    HOST("denoise"),
    /** One call of the fused graph {@code generate} a canvas. */
    GRAPH("generate");

    final String graph;

    Loop(String graph) {
        this.graph = graph;
    }

    /** The word that the bundle tools use: host or graph. */
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }
}
