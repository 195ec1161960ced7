package org.dgemma.jvm;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Samples;
import org.dgemma.runtime.Timings;
import org.dgemma.runtime.TokenLogprob;
import org.dgemma.runtime.Trajectory;
import org.jspecify.annotations.Nullable;

/** Answers as JSON values. */
final class ResultJson {
    private ResultJson() {}

    /** As {@code dgemma run --json}, and the trajectory where it was asked for. */
    static Map<String, Object> toMap(Result result) {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("text", result.text);
        found.put("tokens", result.tokens);
        found.put("steps", result.steps);
        found.put("canvases", result.canvases);
        found.put("tokens_per_forward", result.tokensPerForward());
        found.put("stop_reason", result.stopReason.word());
        found.put("engine", result.engine);
        found.put("loop", result.loop);
        Map<String, Object> seconds = new LinkedHashMap<>();
        Timings timings = result.timings;
        seconds.put("load_s", timings.loadS);
        seconds.put("prefill_s", timings.prefillS);
        seconds.put("denoise_s", timings.denoiseS);
        seconds.put("commit_s", timings.commitS);
        seconds.put("total_s", timings.totalS);
        seconds.put("engine_s", timings.engineS);
        found.put("timings", seconds);
        found.put("position_forwards", result.positionForwards);
        found.put("position_forwards_per_token", result.positionForwardsPerToken());
        found.put("prefill_position_forwards", result.prefillPositionForwards);
        List<Object> calls = new ArrayList<>();
        result.toolCalls.forEach(call -> calls.add(call.toMap()));
        found.put("thinking", result.thinking);
        found.put("tool_calls", calls);
        found.put("warnings", result.warnings);
        found.put("stop_string", result.stopString);
        if (!result.holes.isEmpty()) {
            found.put("holes", result.holes);
        }
        if (!result.logprobs.isEmpty()) {
            found.put("logprobs", result.logprobs.stream().map(ResultJson::toMap).collect(Collectors.toList()));
            found.put("score", finite(result.score()));
        }
        if (result.choiceProbabilities != null) {
            found.put("choice_probabilities", result.choiceProbabilities);
        }
        if (result.trajectory != null) {
            found.put("trajectory", toMap(result.trajectory));
        }
        return found;
    }

    /** As {@code dgemma run --n K --json}: the best answer, how many agree with it, and all of them in short. */
    static Map<String, Object> toMap(Samples samples) {
        Map<String, Object> found = toMap(samples.best());
        List<Object> each = new ArrayList<>();
        for (Result result : samples.results) {
            Map<String, Object> one = new LinkedHashMap<>();
            one.put("text", result.text);
            one.put("tokens", result.tokens);
            one.put("steps", result.steps);
            each.add(one);
        }
        found.put("agreement", samples.agreement());
        found.put("samples", each);
        return found;
    }

    private static Map<String, Object> toMap(TokenLogprob one) {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("id", one.token);
        found.put("logprob", finite(one.logprob));
        List<Object> top = new ArrayList<>();
        one.top.forEach((id, value) -> top.add(Arrays.asList(id, value)));
        found.put("top", top);
        return found;
    }

    /** Null for what JSON has no number for. */
    private static @Nullable Double finite(@Nullable Double value) {
        return value == null || value.isInfinite() ? null : value;
    }

    private static Map<String, Object> toMap(Trajectory trajectory) {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("prompt_ids", trajectory.promptIds);
        found.put("canvas_index", trajectory.canvasIndex);
        found.put("step", trajectory.step);
        found.put("temperature", floats(trajectory.temperature));
        found.put("canvas_in", Arrays.asList(trajectory.canvasIn));
        found.put("argmax", Arrays.asList(trajectory.argmax));
        found.put("entropy", rows(trajectory.entropy));
        found.put("accepted", rows(trajectory.accepted));
        found.put("canvas_out", Arrays.asList(trajectory.canvasOut));
        found.put("tokens", trajectory.tokens);
        if (trajectory.entropyBound != null) {
            found.put("entropy_bound", Arrays.stream(trajectory.entropyBound).boxed().collect(Collectors.toList()));
        }
        return found;
    }

    /** Each float as the double that it is, so that nothing is lost. */
    private static Object floats(float[] values) {
        Double[] found = new Double[values.length];
        for (int i = 0; i < values.length; i++) {
            found[i] = (double) values[i];
        }
        return Arrays.asList(found);
    }

    private static Object rows(float[][] values) {
        Object[] found = new Object[values.length];
        for (int i = 0; i < values.length; i++) {
            found[i] = floats(values[i]);
        }
        return Arrays.asList(found);
    }

    private static Object rows(boolean[][] values) {
        Object[] found = new Object[values.length];
        for (int i = 0; i < values.length; i++) {
            Boolean[] row = new Boolean[values[i].length];
            for (int j = 0; j < row.length; j++) {
                row[j] = values[i][j];
            }
            found[i] = Arrays.asList(row);
        }
        return Arrays.asList(found);
    }
}
