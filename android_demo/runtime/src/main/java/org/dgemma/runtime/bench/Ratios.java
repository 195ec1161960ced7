package org.dgemma.runtime.bench;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** What another machine's result can be held against: ratios of times, named and made as {@code dgemma bench} does. */
final class Ratios {
    private Ratios() {}

    static Map<String, Object> of(Map<String, Object> result) {
        Map<String, Object> found = new LinkedHashMap<>();
        List<?> points = (List<?>) result.get("growth");
        double canvas = Stats.number(result, "of", "canvas_length");
        gain(found, "first", canvas, points.get(0));
        if (points.size() > 1) {
            gain(found, "last", canvas, points.get(points.size() - 1));
        }
        for (Map.Entry<?, ?> group : ((Map<?, ?>) result.get("groups")).entrySet()) {
            Object ratio = Stats.value(group.getValue(), "ratio");
            double n = Stats.number(ratio, "n");
            double scatter = 2 * Stats.spread(ratio) / Math.sqrt(n);
            put(found, group.getKey() + ": diffusion over autoregressive", Stats.number(ratio, "median"), scatter);
            put(found, group.getKey() + ": tokens per forward",
                    Stats.number(group.getValue(), "diffusion", "tokens_per_forward"), null);
        }
        return found;
    }

    private static void gain(Map<String, Object> found, String which, double canvas, Object point) {
        Object step = Stats.value(point, "step_ms");
        Object token = Stats.value(point, "token_ms");
        put(found, which + " canvas: N autoregressive tokens over a step",
                canvas * Stats.number(token, "least") / Stats.number(step, "least"), unsure(step) + unsure(token));
    }

    /** How lonely the least of some times is: its distance to the lower quartile, less the more times there are. */
    private static double unsure(Object times) {
        double distance = Stats.number(times, "q1") / Stats.number(times, "least") - 1;
        return distance * 2 / Math.sqrt(Stats.number(times, "n"));
    }

    private static void put(Map<String, Object> found, String name, double value, @Nullable Double scatter) {
        Map<String, Object> ratio = new LinkedHashMap<>();
        ratio.put("value", value);
        ratio.put("better", "higher");
        ratio.put("scatter", scatter);
        found.put(name, ratio);
    }
}
