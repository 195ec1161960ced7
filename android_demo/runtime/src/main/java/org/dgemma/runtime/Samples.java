package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * Answers to one prompt, each with a seed of its own, in order. Answers are the same when their text is, white space at its ends
 * aside; without text, when their tokens are.
 */
public final class Samples {
    /** At least one. */
    public final List<Result> results;

    Samples(List<Result> results) {
        this.results = Collections.unmodifiableList(results);
    }

    /**
     * How often each answer was given, the most frequent first, of equally frequent ones the earliest. An answer is its text as
     * a String, or where it has none, its tokens as a list.
     */
    public Map<Object, Integer> votes() {
        Map<Object, Integer> counts = new LinkedHashMap<>();
        results.forEach(result -> counts.merge(answer(result), 1, Integer::sum));
        List<Map.Entry<Object, Integer>> entries = new ArrayList<>(counts.entrySet());
        entries.sort((a, b) -> Integer.compare(b.getValue(), a.getValue())); // stable
        Map<Object, Integer> votes = new LinkedHashMap<>();
        entries.forEach(entry -> votes.put(entry.getKey(), entry.getValue()));
        return votes;
    }

    /** The first of those that say what most of them say. */
    public Result best() {
        Object answer = votes().keySet().iterator().next();
        return results.stream().filter(result -> answer(result).equals(answer)).findFirst().get();
    }

    /** The share of the answers that say what {@link #best} says, above 0 and at most 1. */
    public double agreement() {
        return (double) votes().values().iterator().next() / results.size();
    }

    /** Whether several answers can differ; throws UsageException. */
    static void check(GenerateOptions options) {
        if (options.decoder == Decoder.AUTOREGRESSIVE || options.compute.speculate) {
            throw new UsageException("n needs decoder diffusion without speculate: greedy decoding always gives the same answer");
        }
    }

    private static Object answer(Result result) {
        String text = Trim.both(result.text);
        return text.isEmpty() ? Arrays.stream(result.tokens).boxed().collect(Collectors.toList()) : text;
    }
}
