package org.dgemma.runtime;

/** One denoising step that has run; N is the canvas length. Nothing else holds its arrays. */
public final class StepEvent {
    /** Number of the canvas, from 0. */
    public final int canvasIndex;
    /** Denoising steps run on this canvas so far, from 1. */
    public final int step;
    /** Steps remaining when it ran, T…1. */
    public final int remaining;
    /** Tokens of the canvases before this one. */
    public final int[] committed;
    /** Positions that the canvas has so far: N, but where it starts narrow; what lies behind them says nothing. */
    public final int width;
    /** [N] what would be committed now, as far as the canvas has grown. */
    public final int[] argmax;
    /** [N] the next step's input. */
    public final int[] canvas;
    /** [N] nats of the tempered distribution. */
    public final float[] entropy;
    /** [N] */
    public final boolean[] accepted;

    private final Speech speech;
    private final boolean inside;

    StepEvent(
            Speech speech, boolean inside, int canvasIndex, int step, int remaining, int[] committed, int width, int[] argmax,
            int[] canvas, float[] entropy, boolean[] accepted) {
        this.speech = speech;
        this.inside = inside;
        this.canvasIndex = canvasIndex;
        this.step = step;
        this.remaining = remaining;
        this.committed = committed;
        this.width = width;
        this.argmax = argmax;
        this.canvas = canvas;
        this.entropy = entropy;
        this.accepted = accepted;
    }

    /**
     * Committed tokens and the argmax canvas up to its stop token, as {@link Result#text} would show them; a call of a tool
     * that has no end yet is left out.
     */
    public String text() {
        return speech.soFar(speech.shown(committed, argmax, width), inside).text;
    }

    /** The same of {@link Result#thinking}. */
    public String thinking() {
        return speech.soFar(speech.shown(committed, argmax, width), inside).thinking;
    }

    /** What each committed token, and each of the argmax canvas up to its stop token, belongs to. */
    public TokenKind[] kinds() {
        return speech.kinds(speech.shown(committed, argmax, width), inside);
    }

    /** One string a position of the argmax canvas, for display; empty for markers. Joined they are nearly its text. */
    public String[] pieces() {
        return speech.pieces(argmax);
    }
}
