package org.dgemma.runtime.bench;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.function.BooleanSupplier;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Session;

/**
 * The cost of a canvas while the prefix grows: denoising steps, autoregressive tokens and encoding, side by side.
 *
 * <p>Few steps and tokens of each, without the adaptive stop: what a model says does not matter.
 */
final class Growth {
    private static final int STEPS = 4;
    private static final int TOKENS = 8;

    private final Session session;
    private final int canvas;
    private final BooleanSupplier cancelled;
    private final List<Point> found = new ArrayList<>();
    private final List<Double> prefills = new ArrayList<>();

    Growth(Session session, int canvas, BooleanSupplier cancelled) {
        this.session = session;
        this.canvas = canvas;
        this.cancelled = cancelled;
    }

    /** Milliseconds at one prefix length; the first of several measurements was a warm-up. */
    private static final class Point {
        final int prefix;
        int encoded;
        final List<Double> encodes = new ArrayList<>();
        final List<Double> steps = new ArrayList<>();
        final List<Double> tokens = new ArrayList<>();

        Point(int prefix) {
            this.prefix = prefix;
        }

        Map<String, Object> toMap(int canvas) {
            Map<String, Object> point = new LinkedHashMap<>();
            point.put("prefix", prefix);
            point.put("encoded", encoded);
            point.put("encode_ms", Stats.number(Stats.quartiles(encodes), "median"));
            point.put("step_ms", Stats.quartiles(withoutFirst(steps)));
            point.put("token_ms", Stats.quartiles(withoutFirst(tokens)));
            double tokens = canvas * Stats.median(point, "token_ms");
            point.put("canvas_tokens_over_step", tokens / Stats.median(point, "step_ms"));
            return point;
        }
    }

    private static List<Double> withoutFirst(List<Double> values) {
        return values.subList(Math.min(1, values.size() - 1), values.size());
    }

    /**
     * Every length in turn, again and again until the time is spent, each once at least.
     *
     * @param ids what the prefix is made of, as many as the last length
     */
    void measure(int[] lengths, int[] ids, double seconds) {
        for (int length : lengths) {
            found.add(new Point(length));
        }
        long started = System.nanoTime();
        for (int round = 0; ; round++) {
            for (int i = 0; i < found.size(); i++) {
                if (round > 0 && Stats.secondsSince(started) >= seconds) {
                    return;
                }
                Point point = found.get(i);
                int[] prompt = Arrays.copyOf(ids, point.prefix);
                if (i == 0) {
                    Result all = steps(point, prompt, round, false);
                    prefills.add(1e3 * all.timings.prefillS);
                }
                tokens(point, prompt);
                if (i > 0) {
                    session.rewind(point.prefix - 1);
                    steps(point, new int[] {prompt[point.prefix - 1]}, round, true);
                }
            }
        }
    }

    /** A canvas's first steps; the first includes its noise. */
    private Result steps(Point point, int[] prompt, int seed, boolean continued) {
        GenerateOptions options =
                GenerateOptions.DEFAULT.maxNewTokens(canvas).seed(seed).adaptive(false).continued(continued);
        long[] last = {0};
        int[] number = {0};
        Result result = session.generate(prompt, options, event -> {
            long now = System.nanoTime();
            if (number[0] > 0) {
                point.steps.add((now - last[0]) * 1e-6);
            }
            last[0] = now;
            if (++number[0] == STEPS) {
                session.cancel();
            }
        });
        if (number[0] > 0 && number[0] < 2) {
            point.steps.add(1e3 * result.timings.denoiseS);
        }
        stopIfCancelled();
        return result;
    }

    /** From an empty prefix, all but the last token encoded; then single tokens. */
    private void tokens(Point point, int[] prompt) {
        Result result = session.decodeGreedy(prompt, GenerateOptions.DEFAULT.maxNewTokens(TOKENS));
        stopIfCancelled();
        point.encoded = Math.max(1, point.prefix - 1);
        point.encodes.add(1e3 * result.timings.prefillS);
        point.tokens.add(1e3 * result.timings.denoiseS / Math.max(1, result.steps));
    }

    private void stopIfCancelled() {
        if (cancelled.getAsBoolean()) {
            throw new CancellationException("the benchmark was cancelled");
        }
    }

    List<Object> points() {
        List<Object> points = new ArrayList<>();
        for (Point point : found) {
            points.add(point.toMap(canvas));
        }
        return points;
    }

    /** Of the first length's tokens into an empty prefix. */
    Map<String, Object> prefill() {
        int tokens = found.get(0).prefix;
        Map<String, Object> prefill = new LinkedHashMap<>();
        prefill.put("tokens", tokens);
        prefill.put("ms", Stats.quartiles(withoutFirst(prefills)));
        prefill.put("tokens_per_s", 1e3 * tokens / Stats.median(prefill, "ms"));
        return prefill;
    }
}
