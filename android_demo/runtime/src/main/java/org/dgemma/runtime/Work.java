package org.dgemma.runtime;

import java.util.Collections;
import java.util.Map;
import org.dgemma.format.Json;

/**
 * How much of a canvas is computed. Immutable; start from {@link #ALL} and change what you need.
 *
 * <p>Anything but all of it needs the host loop and a bundle with the graph {@code denoise_active}, and {@link #speculate}
 * the graph {@code check} as well; a generation that lacks them is refused.
 */
public final class Work {
    /** Every position in every step. */
    public static final Work ALL = new Work(0, 0, false, false);

    static final String ACTIVE = "denoise_active";
    static final String CHECK = "check";

    private static final int WHOLE = 0;
    private static final int AUTO = -1;
    /** Nats; where a canvas starts narrow and nothing else is asked for. */
    static final double SETTLE = 0.0003;
    /** Nats; where the encoder checks what has settled. */
    static final double DRAFT_SETTLE = 0.3;
    /** A canvas starts with one of so many parts where nothing else is asked for. */
    static final int NARROWEST = 16;

    final boolean repair;
    final boolean speculate;
    /** Nats, 0 where it was not asked for. */
    private final double settle;
    /** Positions, WHOLE or AUTO. */
    private final int start;

    private Work(double settle, int start, boolean repair, boolean speculate) {
        this.settle = settle;
        this.start = start;
        this.repair = repair;
        this.speculate = speculate;
    }

    /**
     * A position whose entropy falls below so many nats leaves the forward, and its token stays. Where a canvas starts narrow
     * or is a draft, they do so anyway, at 0.0003 or 0.3 nats.
     */
    public Work settle(double nats) {
        if (!(nats > 0) || Double.isInfinite(nats)) {
            throw new UsageException("settle " + Json.repr(nats) + " must be a positive number of nats");
        }
        return new Work(nats, start, repair, speculate);
    }

    /**
     * Positions of a canvas's first step, 1 to the canvas length. After a step without a stop token there are twice as many.
     */
    public Work canvas(int positions) {
        if (positions < 1) {
            throw new UsageException("canvas " + positions + " must be auto, or a number of positions, 1 or more");
        }
        return new Work(settle, positions, repair, speculate);
    }

    /** A canvas starts with a sixteenth of its positions; see {@link #canvas}. */
    public Work canvasAuto() {
        return new Work(settle, AUTO, repair, speculate);
    }

    /** With settle or canvas: run all positions once more before a canvas is committed, and go on where they change. */
    public Work repair(boolean value) {
        return new Work(settle, start, value, speculate);
    }

    /**
     * What a canvas says is a draft: the causal encoder reads it in one pass, and what it would have said itself, token by
     * token, stays. The text is that of greedy autoregressive decoding.
     */
    public Work speculate(boolean value) {
        return new Work(settle, start, repair, value);
    }

    boolean isAll() {
        return settle == 0 && start == WHOLE && !speculate;
    }

    /** The entropy in nats below which a position settles. */
    double nats() {
        return settle > 0 ? settle : speculate ? DRAFT_SETTLE : SETTLE;
    }

    /** Positions of the first step of a canvas of n. */
    int firstWidth(int n) {
        return start == AUTO ? Math.max(1, n / NARROWEST) : start == WHOLE ? n : Math.min(start, n);
    }

    /** The graphs that a generation calls beside {@code encode}. */
    String[] graphs(Loop loop) {
        return isAll() ? new String[] {loop.graph} : speculate ? new String[] {ACTIVE, CHECK} : new String[] {ACTIVE};
    }

    /** Throws UsageException where the loop or the bundle cannot do it. */
    void check(Bundle bundle, String engine, Loop loop) {
        if (isAll()) {
            if (repair) {
                throw new UsageException("repair runs settled positions again; give settle or canvas as well");
            }
            return;
        }
        if (loop != Loop.HOST) {
            throw new UsageException("settle, canvas and speculate need loop host: "
                    + "the fused graph runs every position in every step");
        }
        int n = bundle.manifest().canvasLength;
        if (start > n) {
            throw new UsageException("canvas " + start + " must be auto, or at most the exported " + n);
        }
        Map<String, ?> known = bundle.manifest().graphs.getOrDefault(engine, Collections.emptyMap());
        for (String graph : graphs(loop)) {
            if (!known.containsKey(graph)) {
                throw new UsageException(bundle.folder() + ": was exported without '" + graph + "'; export it again, or leave "
                        + "settle, canvas and speculate out");
            }
        }
    }
}
