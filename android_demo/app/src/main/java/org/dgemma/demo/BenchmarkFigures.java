package org.dgemma.demo;

import android.content.res.Resources;
import java.text.NumberFormat;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** The figures of a result that the screen shows, found in its JSON values; what is absent is left out. */
final class BenchmarkFigures {
    /** Tokens/s of both decoders on one group of prompts. */
    static final class Pair {
        final String group;
        final double diffusion;
        final double autoregressive;

        Pair(String group, double diffusion, double autoregressive) {
            this.group = group;
            this.diffusion = diffusion;
            this.autoregressive = autoregressive;
        }
    }

    private final Resources words;
    private final Map<String, Object> result;

    BenchmarkFigures(Resources words, Map<String, Object> result) {
        this.words = words;
        this.result = result;
    }

    /** Of real prompts; for a bundle without them, of the outputs that the protocol works out. */
    List<Pair> pairs() {
        List<Pair> found = new ArrayList<>();
        if (result.get("groups") instanceof Map) {
            for (Map.Entry<?, ?> group : ((Map<?, ?>) result.get("groups")).entrySet()) {
                Double diffusion = number(group.getValue(), "diffusion", "tokens_per_s", "median");
                Double other = number(group.getValue(), "autoregressive", "tokens_per_s", "median");
                if (diffusion != null && other != null) {
                    found.add(new Pair(String.valueOf(group.getKey()), diffusion, other));
                }
            }
        }
        if (found.isEmpty() && result.get("outputs") instanceof List) {
            for (Object output : (List<?>) result.get("outputs")) {
                Double diffusion = number(output, "diffusion_tokens_per_s");
                Double other = number(output, "autoregressive_tokens_per_s");
                Double tokens = number(output, "tokens");
                if (diffusion != null && other != null && tokens != null) {
                    found.add(new Pair(words.getString(R.string.figure_output, format(tokens, 0)), diffusion, other));
                }
            }
        }
        return found;
    }

    /** {name, figure with its unit} */
    List<String[]> rows() {
        List<String[]> rows = new ArrayList<>();
        Object growth = result.get("growth");
        Object first = growth instanceof List && !((List<?>) growth).isEmpty() ? ((List<?>) growth).get(0) : null;
        row(rows, R.string.figure_step, number(first, "step_ms", "median"), 2, " ms");
        row(rows, R.string.figure_token, number(first, "token_ms", "median"), 2, " ms");
        row(rows, R.string.figure_prefill, number(result, "prefill", "tokens_per_s"), 0, " tokens/s");
        row(rows, R.string.figure_first, scaled(number(result, "first_canvas", "loaded_s"), 1e3), 1, " ms");
        row(rows, R.string.figure_cold, scaled(number(result, "first_canvas", "cold_load_s"), 1e3), 0, " ms");
        row(rows, R.string.figure_steps, number(result, "steps_per_canvas", "value"), 1, "");
        Double anonymous = number(result, "memory", "running", "anonymous");
        row(rows, R.string.figure_memory, scaled(anonymous, 1e-6), 0, " MB");
        return rows;
    }

    private void row(List<String[]> rows, int name, @Nullable Double value, int digits, String unit) {
        if (value != null) {
            rows.add(new String[] {words.getString(name), format(value, digits) + unit});
        }
    }

    static String format(double value, int digits) {
        NumberFormat numbers = NumberFormat.getNumberInstance();
        numbers.setMinimumFractionDigits(digits);
        numbers.setMaximumFractionDigits(digits);
        return numbers.format(value);
    }

    private static @Nullable Double scaled(@Nullable Double value, double factor) {
        return value == null ? null : value * factor;
    }

    private static @Nullable Double number(@Nullable Object value, String... path) {
        Object at = value;
        for (String key : path) {
            at = at instanceof Map ? ((Map<?, ?>) at).get(key) : null;
        }
        return at instanceof Number ? ((Number) at).doubleValue() : null;
    }
}
