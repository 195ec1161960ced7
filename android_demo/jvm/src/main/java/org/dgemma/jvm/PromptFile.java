package org.dgemma.jvm;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Guidance;
import org.dgemma.runtime.Profile;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.SamplerOptions;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/**
 * JSON lines with {@code prompt}, a text or a list of ids, and what differs from the command line's options:
 * {@code seed}, {@code max_new_tokens}, {@code min_tokens}, {@code adaptive}, {@code loop}, {@code raw}, {@code continue},
 * {@code stop}, {@code ban}, {@code logprobs}, {@code guidance} with {@code negative} (ids) and {@code guidance_steps} (a list),
 * and in {@code sampler} an object of {@code temperature}, {@code max_steps}, {@code entropy_bound}, {@code schedule},
 * {@code confidence}, {@code stability}, {@code top_k}, {@code top_p}, {@code min_p} and {@code logit_bias} (pairs). Other keys
 * are not read.
 */
final class PromptFile {
    private PromptFile() {}

    /** One prompt. */
    static final class Line {
        private final @Nullable String text;
        private final int @Nullable [] ids;
        private final GenerateOptions options;

        private Line(@Nullable String text, int @Nullable [] ids, GenerateOptions options) {
            this.text = text;
            this.ids = ids;
            this.options = options;
        }

        Result run(Session session) {
            return text != null ? session.generate(text, options, null) : session.generate(ids, options, null);
        }
    }

    /** Every line, before the first one runs; throws UsageException naming file and line. */
    static List<Line> read(String path, GenerateOptions options) {
        List<Line> found = new ArrayList<>();
        int number = 0;
        try {
            for (String line : Files.readAllLines(new File(path).toPath(), StandardCharsets.UTF_8)) {
                number++;
                if (!line.trim().isEmpty()) {
                    found.add(line((Map<?, ?>) Json.parse(line), options));
                }
            }
        } catch (IOException error) {
            throw new UsageException("--prompts " + path + ": cannot be read; give a file of JSON lines in UTF-8");
        } catch (JsonException | ClassCastException | NullPointerException | UsageException error) {
            throw new UsageException("--prompts " + path + ", line " + number
                    + ": must be a JSON object with prompt, a text or a list of ids (" + error.getMessage() + ")");
        }
        return found;
    }

    private static Line line(Map<?, ?> values, GenerateOptions options) {
        if (values.containsKey("seed")) {
            options = options.seed(((Number) values.get("seed")).longValue());
        }
        if (values.containsKey("max_new_tokens")) {
            options = options.maxNewTokens(((Number) values.get("max_new_tokens")).intValue());
        }
        if (values.containsKey("min_tokens")) {
            options = options.minTokens(((Number) values.get("min_tokens")).intValue());
        }
        if (values.containsKey("guidance")) {
            options = options.guidance(guidance(values));
        }
        if (values.containsKey("adaptive")) {
            options = options.adaptive((Boolean) values.get("adaptive"));
        }
        if (values.containsKey("loop")) {
            options = options.loop(GenerationFlags.loop((String) values.get("loop")));
        }
        if (values.containsKey("raw")) {
            options = options.raw((Boolean) values.get("raw"));
        }
        if (values.containsKey("continue")) {
            options = options.continued((Boolean) values.get("continue"));
        }
        if (values.containsKey("stop")) {
            options = options.stop(texts(values.get("stop")));
        }
        if (values.containsKey("ban")) {
            options = options.ban(texts(values.get("ban")));
        }
        if (values.containsKey("logprobs")) {
            options = options.logprobs(((Number) values.get("logprobs")).intValue());
        }
        if (values.containsKey("sampler")) {
            options = options.sampler(sampler((Map<?, ?>) values.get("sampler")));
        }
        Object prompt = values.get("prompt");
        return prompt instanceof String ? new Line((String) prompt, null, options) : new Line(null, ids(prompt), options);
    }

    private static int[] ids(Object list) {
        return ((List<?>) list).stream().mapToInt(each -> Math.toIntExact((Long) each)).toArray();
    }

    private static Guidance guidance(Map<?, ?> values) {
        Guidance found = Guidance.of(((Number) values.get("guidance")).doubleValue());
        found = values.containsKey("negative") ? found.negative(ids(values.get("negative"))) : found;
        if (!values.containsKey("guidance_steps")) {
            return found;
        }
        int[] steps = ids(values.get("guidance_steps"));
        return found.steps(steps[0], steps[1]);
    }

    private static String[] texts(Object list) {
        return ((List<?>) list).toArray(new String[0]);
    }

    private static SamplerOptions sampler(Map<?, ?> values) {
        Map<String, Object> steps = new LinkedHashMap<>();
        values.forEach((name, value) -> steps.put((String) name, value));
        SamplerOptions found = Profile.NONE.with(steps).sampler();
        for (Map.Entry<?, ?> each : values.entrySet()) {
            found = changed(found, (String) each.getKey(), each.getValue());
        }
        return found;
    }

    private static SamplerOptions changed(SamplerOptions options, String name, Object value) {
        switch (name) {
            case "temperature":
            case "max_steps":
            case "entropy_bound":
            case "schedule":
            case "confidence":
            case "stability":
                return options; // read already
            case "logit_bias":
                SamplerOptions found = options;
                for (Object pair : (List<?>) value) {
                    Object bias = ((List<?>) pair).get(1); // null bans
                    found = found.logitBias(((Number) ((List<?>) pair).get(0)).intValue(),
                            bias == null ? Double.NEGATIVE_INFINITY : ((Number) bias).doubleValue());
                }
                return found;
            case "top_k":
                return options.topK(((Number) value).intValue());
            case "top_p":
                return options.topP(((Number) value).doubleValue());
            case "min_p":
                return options.minP(((Number) value).doubleValue());
            default:
                throw new UsageException("sampler has no " + name);
        }
    }
}
