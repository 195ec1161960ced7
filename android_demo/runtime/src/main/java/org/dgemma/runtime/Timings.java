package org.dgemma.runtime;

/** Seconds of one generation. */
public final class Timings {
    /** Loading graphs that were not loaded before. */
    public final double loadS;
    /** Encoding what the prefix lacked before the first canvas. */
    public final double prefillS;
    /** All denoising steps, or all decode calls of the autoregressive baseline. */
    public final double denoiseS;
    /** Encoding committed canvases that another one follows. */
    public final double commitS;
    /** All of it, callbacks included. */
    public final double totalS;
    /** Inside native calls. */
    public final double engineS;

    Timings(double loadS, double prefillS, double denoiseS, double commitS, double totalS, double engineS) {
        this.loadS = loadS;
        this.prefillS = prefillS;
        this.denoiseS = denoiseS;
        this.commitS = commitS;
        this.totalS = totalS;
        this.engineS = engineS;
    }
}
