package org.dgemma.jvm;

import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.dgemma.runtime.Schedule;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/** {@code --schedule}: a shape's name, or a table of every step's values in a {@code .json} or {@code .toml} file. */
final class ScheduleFile {
    private static final List<String> KEYS = Arrays.asList("temperature", "entropy_bound");

    /** A key of TOML, and a list over any number of lines, or what else stands on its line. */
    private static final Pattern ASSIGNMENT = Pattern.compile(
            "([\"']?)([\\w-]+)\\1[ \\t]*=[ \\t]*(?:\\[([^\\[\\]]*)\\]|[^\\n\\[]+)[ \\t\\r]*(?:\\n|$)\\s*");
    private static final String DIGITS = "[0-9](?:_?[0-9])*";
    private static final Pattern NUMBER = Pattern.compile(
            "[+-]?(?:0|[1-9](?:_?[0-9])*)(?:\\." + DIGITS + ")?(?:[eE][+-]?" + DIGITS + ")?");
    private static final int SHOWN = 40;

    private ScheduleFile() {}

    /** Throws UsageException. */
    static Schedule read(String text) {
        if (text.equals("linear")) {
            return Schedule.LINEAR;
        }
        if (text.equals("cosine")) {
            return Schedule.COSINE;
        }
        if (!text.endsWith(".json") && !text.endsWith(".toml")) {
            throw new UsageException("--schedule '" + text + "' must be linear, cosine, or a .json or .toml file");
        }
        String said = "--schedule " + text;
        String table = TextFile.read("--schedule", text);
        Map<String, double[]> values;
        try {
            values = text.endsWith(".toml") ? toml(table) : json(table);
        } catch (JsonException | IllegalArgumentException error) {
            throw new UsageException(said + ": cannot be read (" + error.getMessage() + "); correct the file", error);
        }
        for (String key : values.keySet()) {
            if (!KEYS.contains(key)) {
                throw new UsageException(said + " has an unknown key '" + key.substring(0, Math.min(SHOWN, key.length()))
                        + "'; choose from " + String.join(", ", KEYS));
            }
        }
        double[] none = {};
        try {
            return Schedule.table(values.getOrDefault(KEYS.get(0), none), values.getOrDefault(KEYS.get(1), none));
        } catch (UsageException error) { // which begins with "schedule"
            String why = error.getMessage().substring("schedule".length());
            throw new UsageException(said + why.replace("entropyBound", "entropy_bound"), error);
        }
    }

    /** What is no number becomes NaN, which no table takes. */
    private static Map<String, double[]> json(String text) {
        Object values = Json.parse(text);
        if (!(values instanceof Map)) {
            throw new IllegalArgumentException("not an object");
        }
        Map<String, double[]> found = new LinkedHashMap<>();
        ((Map<?, ?>) values).forEach((key, value) -> {
            List<?> list = value instanceof List ? (List<?>) value : Collections.singletonList(value);
            boolean isList = value instanceof List;
            found.put((String) key, list.stream()
                    .mapToDouble(each -> isList && each instanceof Number ? ((Number) each).doubleValue() : Double.NaN)
                    .toArray());
        });
        return found;
    }

    /** As above. Of TOML it reads what a table is written in: keys, lists of numbers, and comments. */
    private static Map<String, double[]> toml(String text) {
        Map<String, double[]> found = new LinkedHashMap<>();
        String rest = text.replaceAll("#[^\\n]*", "").trim();
        while (!rest.isEmpty()) {
            Matcher next = ASSIGNMENT.matcher(rest);
            if (!next.lookingAt()) {
                throw new IllegalArgumentException("no list of numbers at '" + rest.split("\\R", 2)[0] + "'");
            }
            if (found.put(next.group(2), numbers(next.group(3))) != null) {
                throw new IllegalArgumentException(next.group(2) + " is there twice");
            }
            rest = rest.substring(next.end());
        }
        return found;
    }

    /** @param list what stands between its brackets, maybe with a comma behind the last; null for what is no list */
    private static double[] numbers(@Nullable String list) {
        if (list == null) {
            return new double[] {Double.NaN};
        }
        String inside = list.trim();
        if (inside.isEmpty()) {
            return new double[0];
        }
        String whole = inside.endsWith(",") ? inside.substring(0, inside.length() - 1) : inside;
        return Arrays.stream(whole.split(",", -1)).map(String::trim)
                .mapToDouble(each -> NUMBER.matcher(each).matches() ? Double.parseDouble(each.replace("_", "")) : Double.NaN)
                .toArray();
    }
}
