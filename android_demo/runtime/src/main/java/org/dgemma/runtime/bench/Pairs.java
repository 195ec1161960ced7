package org.dgemma.runtime.bench;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.function.BooleanSupplier;
import java.util.function.DoubleConsumer;
import java.util.function.ToDoubleFunction;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Session;

/**
 * Real prompts by both decoders of one bundle, diffusion and autoregressive, next to each other in time, in turns.
 *
 * <p>Tokens are those up to, without, the stop token. A rate is tokens over wall-clock time of the whole call.
 */
final class Pairs {
    private final Session session;
    private final GenerateOptions options;
    private final BooleanSupplier cancelled;

    Pairs(Session session, int maxNewTokens, long seed, BooleanSupplier cancelled) {
        this.session = session;
        this.options = GenerateOptions.DEFAULT.maxNewTokens(maxNewTokens).seed(seed);
        this.cancelled = cancelled;
    }

    /** One decoded answer. */
    private static final class Sample {
        final Result result;
        final boolean right;

        Sample(Result result, String answer) {
            this.result = result;
            this.right = result.text.trim().equals(answer.trim());
        }

        double tokens() {
            return result.count();
        }

        double steps() {
            return result.steps;
        }

        double canvases() {
            return Math.max(1, result.canvases);
        }

        double seconds() {
            return result.timings.totalS;
        }

        double rate() {
            return tokens() / seconds();
        }

        double decodingRate() {
            return tokens() / (seconds() - result.timings.prefillS);
        }

        double stepMs() {
            return 1e3 * result.timings.denoiseS / steps();
        }

        double firstCanvasMs() {
            return 1e3 * (result.timings.prefillS + result.timings.denoiseS / canvases());
        }

        /** Share of the call that is not spent inside the engine: loop, noise, caches, tokenizer. */
        double hostShare() {
            return 1 - result.timings.engineS / seconds();
        }
    }

    /**
     * Every prompt of every group by both decoders. Groups take turns prompt by prompt; rounds are whole, so that no
     * count depends on the time there was. One warm-up of each decoder is dropped.
     *
     * @return group → figures; empty without prompts
     */
    Map<String, Object> measure(Map<String, List<Prompts.Prompt>> groups, double seconds, DoubleConsumer done) {
        Map<String, List<Sample[]>> pairs = new LinkedHashMap<>();
        int longest = 0;
        for (Map.Entry<String, List<Prompts.Prompt>> group : groups.entrySet()) {
            pairs.put(group.getKey(), new ArrayList<>());
            longest = Math.max(longest, group.getValue().size());
        }
        if (longest == 0) {
            return new LinkedHashMap<>();
        }
        pair(groups.values().iterator().next().get(0), true);
        long started = System.nanoTime();
        for (int round = 0; round == 0 || Stats.secondsSince(started) < seconds; round++) {
            for (int i = 0; i < longest; i++) {
                for (Map.Entry<String, List<Prompts.Prompt>> group : groups.entrySet()) {
                    if (i < group.getValue().size()) {
                        Sample[] pair = pair(group.getValue().get(i), (round + i) % 2 == 0);
                        boolean full = pair[0].tokens() > 0 && pair[1].tokens() > 0;
                        if (full) { // an empty answer has no rate
                            pairs.get(group.getKey()).add(pair);
                        }
                    }
                }
                double share = round == 0 ? (double) i / longest : 1.0;
                done.accept(Math.min(share, Stats.secondsSince(started) / seconds));
            }
        }
        Map<String, Object> found = new LinkedHashMap<>();
        for (Map.Entry<String, List<Sample[]>> group : pairs.entrySet()) {
            if (!group.getValue().isEmpty()) {
                found.put(group.getKey(), summarize(group.getValue()));
            }
        }
        return found;
    }

    /** {diffusion, autoregressive} */
    private Sample[] pair(Prompts.Prompt prompt, boolean diffusionFirst) {
        Sample[] pair = new Sample[2];
        for (int turn = 0; turn < 2; turn++) {
            int side = diffusionFirst == (turn == 0) ? 0 : 1;
            Result result = side == 0
                    ? session.generate(prompt.text, options, null)
                    : session.decodeGreedy(prompt.text, options);
            if (cancelled.getAsBoolean()) {
                throw new CancellationException("the benchmark was cancelled");
            }
            pair[side] = new Sample(result, prompt.answer);
        }
        return pair;
    }

    private static Map<String, Object> summarize(List<Sample[]> pairs) {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("pairs", pairs.size());
        String[] names = {"diffusion", "autoregressive"};
        double[] totals = new double[2];
        for (int side = 0; side < names.length; side++) {
            List<Sample> samples = new ArrayList<>();
            for (Sample[] pair : pairs) {
                samples.add(pair[side]);
            }
            found.put(names[side], side(samples));
            totals[side] = sum(samples, Sample::tokens) / sum(samples, Sample::seconds);
        }
        List<Double> rates = new ArrayList<>();
        List<Double> decoding = new ArrayList<>();
        for (Sample[] pair : pairs) {
            rates.add(pair[0].rate() / pair[1].rate());
            decoding.add(pair[0].decodingRate() / pair[1].decodingRate());
        }
        found.put("ratio", Stats.quartiles(rates));
        found.put("decoding_ratio", Stats.quartiles(decoding));
        found.put("total_ratio", totals[0] / totals[1]);
        return found;
    }

    private static Map<String, Object> side(List<Sample> samples) {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("tokens_per_s", spread(samples, Sample::rate));
        found.put("decoding_tokens_per_s", spread(samples, Sample::decodingRate));
        found.put("step_ms", spread(samples, Sample::stepMs));
        found.put("first_canvas_ms", spread(samples, Sample::firstCanvasMs));
        found.put("host_share", spread(samples, Sample::hostShare));
        found.put("engine_share", sum(samples, s -> s.result.timings.engineS) / sum(samples, Sample::seconds));
        found.put("tokens", spread(samples, Sample::tokens));
        found.put("tokens_per_forward", sum(samples, Sample::tokens) / sum(samples, Sample::steps));
        found.put("steps_per_canvas", sum(samples, Sample::steps) / sum(samples, Sample::canvases));
        found.put("exact", sum(samples, s -> s.right ? 1 : 0) / samples.size());
        return found;
    }

    private static double sum(List<Sample> samples, ToDoubleFunction<Sample> figure) {
        double sum = 0;
        for (Sample sample : samples) {
            sum += figure.applyAsDouble(sample);
        }
        return sum;
    }

    private static Map<String, Object> spread(List<Sample> samples, ToDoubleFunction<Sample> figure) {
        List<Double> values = new ArrayList<>();
        for (Sample sample : samples) {
            values.add(figure.applyAsDouble(sample));
        }
        return Stats.quartiles(values);
    }
}
