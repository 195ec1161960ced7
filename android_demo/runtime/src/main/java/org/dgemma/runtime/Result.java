package org.dgemma.runtime;

import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** One generation. */
public final class Result {
    /** Decoded tokens, without thoughts, calls and markers; empty for a bundle without a tokenizer. */
    public final String text;
    /** What stands in thought channels, where the chat template has them; joined by line breaks. */
    public final String thinking;
    /** Calls of tools, where the chat template has them. */
    public final List<ToolCall> toolCalls;
    /** What is wrong with the answer, one line each: why it is empty, which calls are malformed. */
    public final List<String> warnings;
    /** Committed ids up to, without, the first stop token, at most maxNewTokens. */
    public final int[] tokens;
    /**
     * How many padding tokens {@link #tokens} ends with where no stop token was given. Rates do not count them, and the
     * prefix does not hold them.
     */
    public final int pads;
    /** Denoising steps run, over all canvases (calls of {@code decode} for the autoregressive baseline). */
    public final int steps;
    /** Canvases committed. */
    public final int canvases;
    /**
     * Positions put through the stack, summed over all denoising steps (or calls of {@code decode}), and the encoding of
     * committed canvases and the checking of drafts included; prefill and padding are not.
     */
    public final int positionForwards;
    /** Positions that were encoded before the first canvas. */
    public final int prefillPositionForwards;
    public final StopReason stopReason;
    /** onnx or executorch. */
    public final String engine;
    /** host, graph, or decode. */
    public final String loop;
    public final Timings timings;
    /**
     * Of each token, nats of its position's tempered distribution in the last step that ran it: 0 where the model was certain or
     * the token was fixed. Compare only answers with the same schedule. Empty of greedy decoding.
     */
    public final float[] entropies;
    /** Of each token, where {@link GenerateOptions#logprobs} were asked for. */
    public final List<TokenLogprob> logprobs;
    /** The stop string that the answer ended before, if it did; the reason is then {@link StopReason#STOP}. */
    public final @Nullable String stopString;
    /** What each hole of a template was filled with, in order. */
    public final List<String> holes;
    /** Of each choice in its order, where they were asked for; they sum to 1. */
    public final @Nullable Map<String, Double> choiceProbabilities;
    /** Every step, where it was asked for. */
    public final @Nullable Trajectory trajectory;

    Result(
            Answer answer, List<String> warnings, int[] tokens, Progress run, String engine, String loop, Timings timings,
            @Nullable String stopString, List<String> holes, @Nullable Map<String, Double> choiceProbabilities) {
        this.text = answer.text;
        this.thinking = answer.thinking;
        this.toolCalls = answer.toolCalls;
        this.warnings = Collections.unmodifiableList(warnings);
        this.tokens = tokens;
        this.pads = run.pads;
        this.steps = run.steps;
        this.canvases = run.canvases;
        this.positionForwards = run.positionForwards;
        this.prefillPositionForwards = run.prefillPositionForwards;
        this.stopReason = run.reason;
        this.engine = engine;
        this.loop = loop;
        this.timings = timings;
        this.trajectory = run.trajectory;
        this.entropies = run.entropies;
        this.logprobs = Collections.unmodifiableList(run.logprobs);
        this.stopString = stopString;
        this.holes = Collections.unmodifiableList(holes);
        this.choiceProbabilities = choiceProbabilities == null ? null : Collections.unmodifiableMap(choiceProbabilities);
    }

    /** The answer as a turn of a conversation. */
    public Message message() {
        return Message.assistant(text).toolCalls(toolCalls).thinking(thinking);
    }

    /** Committed tokens without the padding at their end. */
    public int count() {
        return tokens.length - pads;
    }

    /** Sum of {@link #logprobs}; null where there are none. */
    public @Nullable Double score() {
        return logprobs.isEmpty() ? null : logprobs.stream().mapToDouble(each -> each.logprob).sum();
    }

    /** {@link #count} over denoising steps run; 0 when none ran. */
    public double tokensPerForward() {
        return steps == 0 ? 0.0 : (double) count() / steps;
    }

    /** Position-forwards over {@link #count}, null when there are none; about 1 for the autoregressive baseline. */
    public @Nullable Double positionForwardsPerToken() {
        return count() == 0 ? null : (double) positionForwards / count();
    }
}
