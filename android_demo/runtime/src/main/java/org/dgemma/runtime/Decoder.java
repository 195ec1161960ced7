package org.dgemma.runtime;

import java.util.Locale;

/** How tokens are decoded; the weights are the same. */
public enum Decoder {
    /** Canvas after canvas, each in denoising steps. */
    DIFFUSION,
    /**
     * One greedy token per call of the graph {@code decode}. That has no noise, no steps and no canvases, so the seed changes
     * nothing, and options that need them are refused.
     */
    AUTOREGRESSIVE;

    /** The word that the bundle tools use: diffusion or autoregressive. */
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }
}
