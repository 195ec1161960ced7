package org.dgemma.jvm;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.SamplerOptions;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/**
 * JSON lines with {@code prompt}, a text or a list of ids, and what differs from the command line's options:
 * {@code seed}, {@code max_new_tokens}, {@code adaptive}, {@code loop}, {@code raw}, {@code continue}, {@code stop},
 * {@code ban}, {@code logprobs}, and in {@code sampler} an object of {@code temperature} (a list of both ends),
 * {@code max_steps}, {@code entropy_bound}, {@code confidence}, {@code stability}, {@code top_k}, {@code top_p}, {@code min_p}
 * and {@code logit_bias} (pairs). Other keys are not read.
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
        if (prompt instanceof String) {
            return new Line((String) prompt, null, options);
        }
        List<?> given = (List<?>) prompt;
        int[] ids = new int[given.size()];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = Math.toIntExact((Long) given.get(i));
        }
        return new Line(null, ids, options);
    }

    private static String[] texts(Object list) {
        return ((List<?>) list).toArray(new String[0]);
    }

    private static SamplerOptions sampler(Map<?, ?> values) {
        SamplerOptions found = SamplerOptions.EXPORTED;
        for (Map.Entry<?, ?> each : values.entrySet()) {
            found = changed(found, (String) each.getKey(), each.getValue());
        }
        return found;
    }

    private static SamplerOptions changed(SamplerOptions options, String name, Object value) {
        switch (name) {
            case "temperature":
                List<?> ends = (List<?>) value;
                return options.temperature(((Number) ends.get(0)).doubleValue(), ((Number) ends.get(1)).doubleValue());
            case "logit_bias":
                SamplerOptions found = options;
                for (Object pair : (List<?>) value) {
                    Object bias = ((List<?>) pair).get(1); // null bans
                    found = found.logitBias(((Number) ((List<?>) pair).get(0)).intValue(),
                            bias == null ? Double.NEGATIVE_INFINITY : ((Number) bias).doubleValue());
                }
                return found;
            case "max_steps":
                return options.maxSteps(((Number) value).intValue());
            case "entropy_bound":
                return options.entropyBound(((Number) value).doubleValue());
            case "confidence":
                return options.confidence(((Number) value).doubleValue());
            case "stability":
                return options.stability(((Number) value).intValue());
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
