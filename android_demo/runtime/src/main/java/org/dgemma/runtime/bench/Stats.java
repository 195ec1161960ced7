package org.dgemma.runtime.bench;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The few statistics that results are reported with. */
final class Stats {
    private Stats() {}

    /** Least, median and quartiles as Python's {@code statistics.quantiles(values, n=4, method="inclusive")}. */
    static Map<String, Object> quartiles(List<Double> values) {
        if (values.isEmpty()) {
            throw new IllegalArgumentException("no measurements");
        }
        List<Double> sorted = new ArrayList<>(values);
        Collections.sort(sorted);
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("least", sorted.get(0));
        String[] names = {"q1", "median", "q3"};
        for (int i = 0; i < names.length; i++) {
            int place = (i + 1) * (sorted.size() - 1);
            int low = place / 4;
            int part = place % 4;
            double high = sorted.get(Math.min(low + 1, sorted.size() - 1));
            found.put(names[i], (sorted.get(low) * (4 - part) + high * part) / 4);
        }
        found.put("n", (long) sorted.size());
        return found;
    }

    /** The median of the quartiles that an object holds under a name. */
    static double median(Object values, String name) {
        return number(values, name, "median");
    }

    /** A number inside nested objects. */
    static double number(Object values, String... path) {
        return ((Number) value(values, path)).doubleValue();
    }

    static Object value(Object values, String... path) {
        Object found = values;
        for (String name : path) {
            found = ((Map<?, ?>) found).get(name);
        }
        return found;
    }

    /** The range between the quartiles over the median; 0 for a median of 0. */
    static double spread(Object quartiles) {
        double median = number(quartiles, "median");
        return median == 0 ? 0 : (number(quartiles, "q3") - number(quartiles, "q1")) / median;
    }

    static double secondsSince(long nanoTime) {
        return (System.nanoTime() - nanoTime) * 1e-9;
    }
}
