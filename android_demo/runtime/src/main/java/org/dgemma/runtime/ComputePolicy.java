package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;

/**
 * How much of a canvas is computed. Immutable; start from {@link #ALL} and change what you need.
 *
 * <p>Anything but all of it needs the host loop and a bundle with the graph {@code denoise_active}, and {@link #speculate}
 * the graph {@code check} as well; a generation that lacks them is refused.
 */
public final class ComputePolicy {
    /** Every position in every step. */
    public static final ComputePolicy ALL = new ComputePolicy(0, 0, false, false);

    static final String ACTIVE = "denoise_active";
    static final String CHECK = "check";

    private static final int WHOLE = 0;
    private static final int AUTO = -1;
    /** Nats; where a canvas starts narrow and nothing else is asked for. */
    static final double EARLY_COMMIT = 0.0003;
    /** Nats; where the encoder checks what was committed early. */
    static final double DRAFT_EARLY_COMMIT = 0.3;
    /** A canvas starts with one of so many parts where nothing else is asked for. */
    static final int NARROWEST = 16;

    final boolean recheck;
    final boolean speculate;
    /** Nats, 0 where it was not asked for. */
    private final double earlyCommit;
    /** Positions, WHOLE or AUTO. */
    private final int startWidth;

    private ComputePolicy(double earlyCommit, int startWidth, boolean recheck, boolean speculate) {
        this.earlyCommit = earlyCommit;
        this.startWidth = startWidth;
        this.recheck = recheck;
        this.speculate = speculate;
    }

    /**
     * A position whose entropy falls below so many nats is committed early: its token stays, and it leaves the forward. Where
     * a canvas starts narrow or is a draft, that happens anyway, at 0.0003 or 0.3 nats.
     */
    public ComputePolicy earlyCommit(double nats) {
        if (!(nats > 0) || Double.isInfinite(nats)) {
            throw new UsageException("earlyCommit " + Json.repr(nats) + " must be a positive number of nats");
        }
        return new ComputePolicy(nats, startWidth, recheck, speculate);
    }

    /**
     * Positions of a canvas's first step, 1 to the canvas length. After a step without a stop token there are twice as many.
     */
    public ComputePolicy startWidth(int positions) {
        if (positions < 1) {
            throw new UsageException("startWidth " + positions + " must be auto, or a number of positions, 1 or more");
        }
        return new ComputePolicy(earlyCommit, positions, recheck, speculate);
    }

    /** A canvas starts with a sixteenth of its positions; see {@link #startWidth}. */
    public ComputePolicy startWidthAuto() {
        return new ComputePolicy(earlyCommit, AUTO, recheck, speculate);
    }

    /**
     * With earlyCommit or startWidth: run all positions once more before a canvas is committed, and go on where they change.
     */
    public ComputePolicy recheck(boolean value) {
        return new ComputePolicy(earlyCommit, startWidth, value, speculate);
    }

    /**
     * What a canvas says is a draft: the causal encoder reads it in one forward, and what it would have said itself, token by
     * token, stays. The text is that of greedy autoregressive decoding.
     */
    public ComputePolicy speculate(boolean value) {
        return new ComputePolicy(earlyCommit, startWidth, recheck, value);
    }

    boolean isAll() {
        return earlyCommit == 0 && startWidth == WHOLE && !speculate;
    }

    /** Names of what was asked for. */
    List<String> given() {
        List<String> names = new ArrayList<>();
        if (earlyCommit > 0) {
            names.add("earlyCommit");
        }
        if (startWidth != WHOLE) {
            names.add("startWidth");
        }
        if (recheck) {
            names.add("recheck");
        }
        if (speculate) {
            names.add("speculate");
        }
        return names;
    }

    /** Names of what says how a canvas begins. */
    List<String> ofCanvas() {
        List<String> names = given();
        names.retainAll(Arrays.asList("startWidth", "speculate"));
        return names;
    }

    /** The entropy in nats below which a position is committed early. */
    double nats() {
        return earlyCommit > 0 ? earlyCommit : speculate ? DRAFT_EARLY_COMMIT : EARLY_COMMIT;
    }

    /** Positions of the first step of a canvas of n. */
    int firstWidth(int n) {
        boolean auto = startWidth == AUTO;
        return auto ? Math.max(1, n / NARROWEST) : startWidth == WHOLE ? n : Math.min(startWidth, n);
    }

    /** The graphs that a generation calls beside {@code encode}. */
    String[] graphs(Loop loop) {
        return isAll() ? new String[] {loop.graph} : speculate ? new String[] {ACTIVE, CHECK} : new String[] {ACTIVE};
    }

    /** Throws UsageException where nothing is committed early that could run once more. */
    void checkRecheck() {
        if (isAll() && recheck) {
            throw new UsageException("recheck runs positions that were committed early; "
                    + "give earlyCommit or startWidth as well");
        }
    }

    /** Throws UsageException where the loop or the bundle cannot do it. */
    void check(Bundle bundle, String engine, Loop loop) {
        checkRecheck();
        if (isAll()) {
            return;
        }
        if (loop != Loop.HOST) {
            List<String> names = given();
            throw new UsageException(UsageException.listed(names) + (names.size() == 1 ? " needs" : " need")
                    + " loop host: the fused graph runs every position in every step");
        }
        int n = bundle.manifest().canvasLength;
        if (startWidth > n) {
            throw new UsageException("startWidth " + startWidth + " must be auto, or at most the exported " + n);
        }
        Map<String, ?> known = bundle.manifest().graphs.getOrDefault(engine, Collections.emptyMap());
        for (String graph : graphs(loop)) {
            if (!known.containsKey(graph)) {
                throw new UsageException("this bundle was exported without '" + graph + "'; export it again, or leave "
                        + UsageException.listed(given()) + " out");
            }
        }
    }
}
