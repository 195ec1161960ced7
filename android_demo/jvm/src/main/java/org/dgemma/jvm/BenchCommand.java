package org.dgemma.jvm;

import java.io.PrintStream;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.runtime.bench.Bench;

/** {@code bench}: the protocol of the library; progress on stderr, a summary or one JSON object on stdout. */
final class BenchCommand {
    static final List<String> OPTIONS = Arrays.asList("--engine", "--target", "--seconds", "--threads", "--cache");
    static final List<String> FLAGS = Arrays.asList("--json");
    private static final double SECONDS = 60;

    private final Arguments given;
    private final PrintStream out;
    private final PrintStream err;

    BenchCommand(Arguments given, PrintStream out, PrintStream err) {
        this.given = given;
        this.out = out;
        this.err = err;
    }

    void run() {
        Bench bench = new Bench(given.bundle, given.session(), given.real("--seconds", SECONDS));
        String[] last = {""};
        Map<String, Object> result = bench.run((stage, done) -> {
            if (!stage.equals(last[0])) {
                last[0] = stage;
                err.println(stage);
            }
        });
        if (!given.has("--json")) {
            summary(result);
        }
        out.println(Json.write(result));
    }

    private void summary(Map<String, Object> result) {
        for (Map.Entry<?, ?> group : ((Map<?, ?>) result.get("groups")).entrySet()) {
            out.printf(Locale.ROOT, "%-22s diffusion %7.0f tokens/s, autoregressive %7.0f, ratio %.2f%n",
                    group.getKey(), median(group.getValue(), "diffusion", "tokens_per_s"),
                    median(group.getValue(), "autoregressive", "tokens_per_s"), median(group.getValue(), "ratio"));
        }
        out.printf(Locale.ROOT, "prefill %.0f tokens/s%n",
                ((Number) ((Map<?, ?>) result.get("prefill")).get("tokens_per_s")).doubleValue());
        for (Object point : (List<?>) result.get("growth")) {
            out.printf(Locale.ROOT, "prefix %5s: %.2f ms a step, %.2f ms a token%n", ((Map<?, ?>) point).get("prefix"),
                    median(point, "step_ms"), median(point, "token_ms"));
        }
    }

    private static double median(Object values, String... path) {
        Object found = values;
        for (String name : path) {
            found = ((Map<?, ?>) found).get(name);
        }
        return ((Number) ((Map<?, ?>) found).get("median")).doubleValue();
    }
}
