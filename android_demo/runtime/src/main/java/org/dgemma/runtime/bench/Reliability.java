package org.dgemma.runtime.bench;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** How far a run can be trusted: fixed arithmetic before and after it, the machine's load, and the spread. */
final class Reliability {
    private static final double DRIFT = 0.10;
    private static final double SPREAD = 0.20;
    private static final double LOAD = 0.5;
    private static final int WARM_UP = 20;
    private static final int REPEATS = 15;
    private static final int SIZE = 1 << 15;

    private Reliability() {}

    /** Median seconds of a fixed loop of float arithmetic on one core, some milliseconds; compiled code. */
    static double calibrate() {
        float[] values = new float[SIZE];
        List<Double> found = new ArrayList<>();
        float kept = 0;
        for (int i = 0; i < WARM_UP + REPEATS; i++) {
            long started = System.nanoTime();
            kept += arithmetic(values);
            if (i >= WARM_UP) {
                found.add(Stats.secondsSince(started));
            }
        }
        if (Float.isNaN(kept)) { // cannot be, but the compiler does not know
            throw new IllegalStateException("the loop computed NaN");
        }
        return Stats.number(Stats.quartiles(found), "median");
    }

    private static float arithmetic(float[] values) {
        float sum = 0;
        for (int pass = 0; pass < 32; pass++) {
            for (int i = 0; i < values.length; i++) {
                values[i] = values[i] * 0.5f + i;
                sum += values[i];
            }
        }
        return sum;
    }

    /** What may scatter, by name: steps, tokens and the ratios of groups. */
    static Map<String, Object> spreads(Map<String, Object> measured) {
        Object first = ((List<?>) measured.get("growth")).get(0);
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("a step", Stats.spread(Stats.value(first, "step_ms")));
        found.put("a token", Stats.spread(Stats.value(first, "token_ms")));
        for (Map.Entry<?, ?> group : ((Map<?, ?>) measured.get("groups")).entrySet()) {
            found.put("the ratio of '" + group.getKey() + "'", Stats.spread(Stats.value(group.getValue(), "ratio")));
        }
        return found;
    }

    static Map<String, Object> toMap(
            double before, double after, @Nullable Double load, int cores, Map<String, Object> spreads) {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("calibration_before_s", before);
        found.put("calibration_after_s", after);
        found.put("load_average", load);
        double drift = after / before - 1;
        found.put("doubt", Math.abs(drift) + Math.max(0, (load == null ? 0 : load) / cores - LOAD));
        found.put("warnings", warnings(drift, load, cores, spreads));
        return found;
    }

    /** One line for each reason to distrust a run; empty for a quiet one. */
    private static List<Object> warnings(double drift, @Nullable Double load, int cores, Map<String, Object> spreads) {
        List<Object> found = new ArrayList<>();
        if (load != null && load > LOAD * cores) {
            found.add(String.format(Locale.ROOT, "other programs were running at the start (load average %.1f on %d cores)",
                    load, cores));
        }
        if (Math.abs(drift) > DRIFT) {
            String line = "the machine's speed changed by %+.0f%% from start to end";
            found.add(String.format(Locale.ROOT, line, 100 * drift));
        }
        int wide = 0;
        Map.Entry<String, Object> worst = null;
        for (Map.Entry<String, Object> entry : spreads.entrySet()) {
            if ((Double) entry.getValue() > SPREAD) {
                wide++;
                worst = worst == null || (Double) entry.getValue() > (Double) worst.getValue() ? entry : worst;
            }
        }
        if (worst != null) {
            found.add(String.format(Locale.ROOT, "%d of %d figures scatter, %s by %.0f%% between its quartiles", wide,
                    spreads.size(), worst.getKey(), 100 * (Double) worst.getValue()));
        }
        return found;
    }
}
