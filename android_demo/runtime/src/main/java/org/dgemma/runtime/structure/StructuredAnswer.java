package org.dgemma.runtime.structure;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.PromptTooLongException;
import org.dgemma.runtime.StopReason;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/**
 * One answer of a language, canvas by canvas: its automaton chooses from every step. It knows ids and positions, and nothing of
 * engines. N canvas, K candidates.
 */
public final class StructuredAnswer {
    private static final double LEAST = 1e-300; // stands for a probability of 0

    /** Ids of the answers whose probabilities are wanted. */
    public final List<int[]> choices;
    private final TokenAutomaton automaton;
    private final String name;
    private final int[] stops;
    private final int pad;
    private final boolean isCall;

    /** What a step says of the position behind ids that a canvas begins with, where the rest is noise; null once cancelled. */
    public interface Behind {
        @Nullable Scores of(int[] begun);
    }

    /** @param isCall whether an answer is read as a call of a tool, and not as text */
    StructuredAnswer(
            TokenAutomaton automaton, String name, int[] stops, int pad, List<int[]> choices, boolean isCall) {
        this.automaton = automaton;
        this.name = name;
        this.stops = stops;
        this.pad = pad;
        this.choices = choices;
        this.isCall = isCall;
    }

    /**
     * Whether the language has an answer of at most {@code most} ids on canvases of n in a context with {@code room} positions
     * left.
     *
     * @throws UsageException also PromptTooLongException
     */
    public void check(int most, int n, int room) {
        int least = automaton.distance[automaton.begin];
        if (least == TokenAutomaton.NEVER) {
            throw new UsageException(
                    name + ": this bundle's tokenizer cannot encode any text that it allows; use other characters");
        }
        if (least > most) {
            throw new UsageException("maxNewTokens " + most + " is less than the " + tokens(least) + " that " + name
                    + " takes at least");
        }
        if (least > room / n * n) {
            throw new PromptTooLongException(name + " takes at least " + tokens(least)
                    + ", and the context has room for canvases of " + tokens(room / n * n) + "; shorten the prompt");
        }
    }

    private static String tokens(int count) {
        return String.format(Locale.ROOT, "%,d token%s", count, count == 1 ? "" : "s");
    }

    /**
     * Of every choice, Σ log p of its ids and of any stop token behind them, in nats; beginnings that choices share run once.
     * Null once cancelled.
     */
    public double @Nullable [] choiceLogProbabilities(Behind behind) {
        Map<List<Integer>, Scores> known = new HashMap<>();
        double[] totals = new double[choices.size()];
        for (int i = 0; i < totals.length; i++) {
            int[] choice = choices.get(i);
            List<Integer> begun = new ArrayList<>();
            double sum = 0;
            for (int at = 0; at <= choice.length; at++) {
                Scores scores = known.get(begun);
                if (scores == null) {
                    scores = behind.of(begun.stream().mapToInt(id -> id).toArray());
                    if (scores == null) {
                        return null;
                    }
                    known.put(new ArrayList<>(begun), scores);
                }
                if (at < choice.length) {
                    sum += logOfSum(scores, choice[at]);
                    begun.add(choice[at]);
                } else {
                    totals[i] = sum + logOfSum(scores, stops);
                }
            }
        }
        return totals;
    }

    private static double logOfSum(Scores scores, int... ids) {
        double sum = 0;
        for (int id : ids) {
            sum += Math.exp(scores.of(0, id));
        }
        return Math.log(Math.max(sum, LEAST));
    }

    /** As probabilities that sum to 1. */
    public static double[] normalized(double[] logProbabilities) {
        double most = Double.NEGATIVE_INFINITY;
        for (double each : logProbabilities) {
            most = Math.max(most, each);
        }
        double sum = 0;
        double[] found = new double[logProbabilities.length];
        for (int i = 0; i < found.length; i++) {
            found[i] = Math.exp(logProbabilities[i] - most);
            sum += found[i];
        }
        for (int i = 0; i < found.length; i++) {
            found[i] /= sum;
        }
        return found;
    }

    /**
     * What is wrong with an answer after a cancel; throws EngineException where another one is not of the language: neither its
     * text, nor the one call that it is read as.
     */
    public List<String> warnings(String text, int calls, StopReason reason) {
        if (automaton.automaton.matches(text) || isCall && calls == 1 && text.isEmpty()) {
            return Collections.emptyList();
        }
        if (reason == StopReason.CANCELLED) {
            return Collections.singletonList(
                    "the answer was cancelled, so it is only the beginning of a text that the " + name + " allows");
        }
        throw new EngineException("the answer " + Json.repr(text, ByteAutomaton.SHOWN) + " does not follow the " + name
                + ", although its tokens do; please report this");
    }

    /**
     * The canvas of n behind the answer's {@code tokens}, of which there may be {@code most}; {@code room} is what the context
     * has left.
     */
    public StructuredCanvas canvas(int[] tokens, int most, int n, int room) {
        int left = most - tokens.length;
        int after = Math.max(0, Math.min(left - n, room / n * n - n));
        BestPath.Place place = new BestPath.Place(automaton.after(tokens), Math.min(left, n), after, stops, pad);
        return new StructuredCanvas(automaton, place, n);
    }
}
