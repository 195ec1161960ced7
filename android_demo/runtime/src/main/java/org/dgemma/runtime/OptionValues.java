package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.function.DoublePredicate;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.dgemma.format.Json;
import org.jspecify.annotations.Nullable;

/** Options of a generation as JSON values, by the names of Python's keywords; null and what is not there is as exported. */
final class OptionValues {
    private static final Pattern NUMBER = Pattern.compile("[+-]?(?:[0-9]+\\.?[0-9]*|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?");
    private static final List<String> TABLE = Arrays.asList("temperature", "entropy_bound");
    private static final int SHOWN = 40;

    private final Map<String, ?> values;

    OptionValues(Map<String, ?> values) {
        this.values = values;
    }

    /** Throws UsageException. */
    SamplerOptions sampler() {
        SamplerOptions found = SamplerOptions.EXPORTED;
        double[] ends = ends("temperature", "temperature", Schedule::isTemperature,
                "A or A:B, numbers from 0 to 100, such as 0.8:0.4");
        found = ends == null ? found : found.temperature(ends[0], ends[1]);
        ends = ends("entropy_bound", "entropyBound", Schedule::isPositive, "a positive number of nats, or A:B");
        found = ends == null ? found : found.entropyBound(ends[0], ends[1]);
        Object schedule = values.get("schedule");
        found = schedule == null ? found : found.schedule(schedule(schedule));
        Integer steps = integer("max_steps", "maxSteps", 1);
        found = steps == null ? found : found.maxSteps(steps);
        Integer stability = integer("stability", "stability", 0);
        found = stability == null ? found : found.stability(stability);
        Double confidence = nats("confidence", "confidence");
        return confidence == null ? found : found.confidence(confidence);
    }

    /** Throws UsageException. */
    ComputePolicy compute() {
        ComputePolicy found = ComputePolicy.ALL
                .recheck(Truth.of(values.get("recheck"))).speculate(Truth.of(values.get("speculate")));
        Double nats = nats("early_commit", "earlyCommit");
        found = nats == null ? found : found.earlyCommit(nats);
        Object width = values.get("start_width");
        if ("auto".equals(width)) {
            found = found.startWidthAuto();
        } else if (width != null) {
            if (!isInteger(width, 1)) {
                throw new UsageException(
                        "startWidth " + shown(width) + " must be auto, or a number of positions, 1 or more");
            }
            found = found.startWidth(narrowed(width));
        }
        found.checkRecheck();
        return found;
    }

    /** Both ends of what goes from step to step: of one number, of two, or of a text A or A:B; null where nothing is said. */
    private double @Nullable [] ends(String key, String name, DoublePredicate fits, String what) {
        Object value = values.get(key);
        if (value == null) {
            return null;
        }
        List<Object> ends = new ArrayList<>();
        if (value instanceof String) {
            ends.addAll(Arrays.asList((Object[]) ((String) value).split(":", -1)));
            ends.replaceAll(OptionValues::read);
        } else if (value instanceof List) {
            ends.addAll((List<?>) value);
        } else {
            ends.add(value);
        }
        boolean two = ends.size() == 1 || ends.size() == 2;
        if (!two || !ends.stream().allMatch(each -> each instanceof Number && fits.test(((Number) each).doubleValue()))) {
            throw new UsageException(name + " " + shown(value) + " must be " + what);
        }
        return new double[] {((Number) ends.get(0)).doubleValue(), ((Number) ends.get(ends.size() - 1)).doubleValue()};
    }

    /** A number, or a text that is none. */
    private static Object read(Object text) {
        String trimmed = Trim.both((String) text);
        return NUMBER.matcher(trimmed).matches() ? (Object) Double.valueOf(trimmed) : text;
    }

    private static Schedule schedule(Object value) {
        if (value instanceof Schedule) {
            return (Schedule) value;
        }
        if (value.equals("linear") || value.equals("cosine")) {
            return value.equals("linear") ? Schedule.LINEAR : Schedule.COSINE;
        }
        if (!(value instanceof Map)) {
            String text = value instanceof String ? (String) value : shown(value);
            throw new UsageException("schedule " + Json.repr(text.substring(0, Math.min(SHOWN, text.length())))
                    + " must be linear or cosine, or a table of temperature and entropy_bound");
        }
        Map<?, ?> table = (Map<?, ?>) value;
        for (Object key : table.keySet()) {
            if (!TABLE.contains(key)) {
                throw new UsageException("schedule has an unknown key " + Json.repr((String) key, SHOWN) + "; choose from "
                        + String.join(", ", TABLE));
            }
        }
        try {
            return Schedule.table(numbers(table, TABLE.get(0)), numbers(table, TABLE.get(1)));
        } catch (UsageException error) {
            throw new UsageException(error.getMessage().replace("entropyBound", "entropy_bound"), error);
        }
    }

    /** What is no number becomes NaN, which no table takes. */
    private static double[] numbers(Map<?, ?> table, String key) {
        if (!table.containsKey(key)) {
            return new double[0];
        }
        Object value = table.get(key);
        return !(value instanceof List) ? new double[] {Double.NaN} : ((List<?>) value).stream()
                .mapToDouble(each -> each instanceof Number ? ((Number) each).doubleValue() : Double.NaN).toArray();
    }

    private @Nullable Integer integer(String key, String name, int low) {
        Object value = values.get(key);
        if (value != null && !isInteger(value, low)) {
            throw new UsageException(name + " " + shown(value) + " must be an integer, " + low + " or more");
        }
        return value == null ? null : narrowed(value);
    }

    private static boolean isInteger(Object value, int low) {
        return value instanceof Number && !(value instanceof Double) && ((Number) value).doubleValue() >= low;
    }

    /** No bundle has so many steps or positions that one more could be. */
    private static int narrowed(Object value) {
        return (int) Math.min(Integer.MAX_VALUE, ((Number) value).doubleValue());
    }

    private @Nullable Double nats(String key, String name) {
        Object value = values.get(key);
        if (value != null && !(value instanceof Number && Schedule.isPositive(((Number) value).doubleValue()))) {
            throw new UsageException(name + " " + shown(value) + " must be a positive number of nats");
        }
        return value == null ? null : ((Number) value).doubleValue();
    }

    /** A JSON value as Python writes it. */
    private static String shown(@Nullable Object value) {
        if (value instanceof Map) {
            return ((Map<?, ?>) value).entrySet().stream()
                    .map(each -> shown(each.getKey()) + ": " + shown(each.getValue())).collect(Collectors.joining(", ", "{", "}"));
        }
        if (value instanceof List) {
            return ((List<?>) value).stream().map(OptionValues::shown).collect(Collectors.joining(", ", "[", "]"));
        }
        return value instanceof String ? Json.repr((String) value)
                : value instanceof Double ? Json.repr((Double) value)
                : value instanceof Boolean ? ((Boolean) value ? "True" : "False") : value == null ? "None" : value.toString();
    }
}
