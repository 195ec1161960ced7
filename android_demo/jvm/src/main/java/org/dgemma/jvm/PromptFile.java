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
import org.dgemma.runtime.Session;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/**
 * JSON lines with {@code prompt}, a text or a list of ids, and what differs from the command line's options:
 * {@code seed}, {@code max_new_tokens}, {@code adaptive}, {@code loop}, {@code raw}, {@code continue}. Other keys are
 * not read.
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
            options = options.loop(RunCommand.loop((String) values.get("loop")));
        }
        if (values.containsKey("raw")) {
            options = options.raw((Boolean) values.get("raw"));
        }
        if (values.containsKey("continue")) {
            options = options.continued((Boolean) values.get("continue"));
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
}
