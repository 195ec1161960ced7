package org.dgemma.jvm;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.dgemma.format.Json;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Loop;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.SamplerOptions;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.Timings;
import org.dgemma.runtime.TokenLogprob;
import org.dgemma.runtime.Trajectory;
import org.dgemma.runtime.UsageException;
import org.dgemma.runtime.ComputePolicy;
import org.jspecify.annotations.Nullable;

/** {@code run}: a prompt and its answer, or a file of prompts and one JSON object a line. */
final class RunCommand {
    static final List<String> OPTIONS = Arrays.asList(
            "-p", "--prompt", "--prompt-ids", "--prompts", "--engine", "--loop", "--seed", "--max-new-tokens",
            "--early-commit", "--start-width", "--threads", "--cache", "--system", "--messages",
            "--temperature", "--steps", "--confidence", "--stability",
            "--entropy-bound", "--top-k", "--top-p", "--min-p", "--logit-bias", "--ban", "--stop", "--logprobs");
    static final List<String> FLAGS = Arrays.asList(
            "--fixed-steps", "--adaptive", "--recheck", "--speculate", "--raw", "--json", "--trace", "--think");

    private final Arguments given;
    private final PrintStream out;
    private final PrintStream err;

    RunCommand(Arguments given, PrintStream out, PrintStream err) {
        this.given = given;
        this.out = out;
        this.err = err;
    }

    void run() {
        GenerateOptions options = options();
        String file = given.text("--prompts");
        String text = given.text("-p") == null ? given.text("--prompt") : given.text("-p");
        String ids = given.text("--prompt-ids");
        String messages = given.text("--messages");
        if (Stream.of(file, text, ids, messages).filter(Objects::nonNull).count() > 1) {
            throw new UsageException("give one of -p, --prompt-ids, --prompts and --messages");
        }
        if (given.has("--trace") && !given.has("--json") && file == null) {
            throw new UsageException("--trace: goes into the JSON object; give --json too");
        }
        if (file != null) {
            Iterable<PromptFile.Line> lines = PromptFile.read(file, options);
            try (Session session = Session.load(given.bundle, given.session())) {
                for (PromptFile.Line line : lines) {
                    out.println(Json.write(toMap(line.run(session))));
                }
            }
            return;
        }
        Function<Session, Result> asked = asked(messages, text, ids, options);
        try (Session session = Session.load(given.bundle, given.session())) {
            Result result = asked.apply(session);
            if (given.has("--json")) {
                out.println(Json.write(toMap(result)));
                return;
            }
            boolean readable = session.bundle().manifest().tokenizer != null;
            out.println(readable ? shown(answer(result)) : joined(result.tokens));
            result.warnings.forEach(err::println);
            if (result.count() == 0) {
                String why = result.stopString != null ? "it begins with the stop string '" + result.stopString + "'"
                        : result.pads > 0 ? "the model gave only padding" : "the model ended it at once";
                err.println("the answer is empty: " + why);
            }
        }
    }

    private static Function<Session, Result> asked(
            @Nullable String messages, @Nullable String text, @Nullable String ids, GenerateOptions options) {
        if (messages != null) {
            ConversationFile file = ConversationFile.read(messages, options);
            return session -> session.generate(file.messages, file.options, null);
        }
        if (ids != null) {
            int[] prompt = ids(ids);
            return session -> session.generate(prompt, options, null);
        }
        String prompt = text == null ? stdin() : text;
        return session -> session.generate(prompt, options, null);
    }

    /** The text, and each tool call on a line of its own: the name, and the arguments as JSON. */
    private static String answer(Result result) {
        List<String> lines = new ArrayList<>();
        if (!result.text.isEmpty() || result.toolCalls.isEmpty()) {
            lines.add(result.text);
        }
        result.toolCalls.forEach(call -> lines.add(call.name + " " + Json.write(call.arguments)));
        return String.join("\n", lines);
    }

    private GenerateOptions options() {
        if (given.has("--fixed-steps") && given.has("--adaptive")) {
            throw new UsageException("give --fixed-steps or --adaptive, not both");
        }
        int most = given.number("--max-new-tokens", GenerateOptions.DEFAULT.maxNewTokens);
        if (most < 1) {
            throw new UsageException("--max-new-tokens " + most + " must be 1 or more");
        }
        GenerateOptions options = GenerateOptions.DEFAULT
                .maxNewTokens(most)
                .seed(given.seed())
                .adaptive(!given.has("--fixed-steps"))
                .loop(loop(given.text("--loop")))
                .compute(compute())
                .sampler(sampler())
                .raw(given.has("--raw"))
                .system(given.text("--system"))
                .think(given.has("--think"))
                .trace(given.has("--trace"))
                .ban(given.texts("--ban"))
                .stop(given.texts("--stop"));
        if (given.text("--logprobs") == null) {
            return options;
        }
        if (!given.has("--json") && given.text("--prompts") == null) {
            throw new UsageException("--logprobs: go into the JSON object; give --json too");
        }
        return options.logprobs(given.number("--logprobs", 0));
    }

    private ComputePolicy compute() {
        ComputePolicy policy = ComputePolicy.ALL.recheck(given.has("--recheck")).speculate(given.has("--speculate"));
        if (given.text("--early-commit") != null) {
            policy = policy.earlyCommit(given.real("--early-commit", 0));
        }
        String width = given.text("--start-width");
        if (width == null) {
            return policy;
        }
        if (!width.matches("auto|[0-9]{1,9}")) {
            throw new UsageException("--start-width '" + width + "': must be auto, or a number of positions, such as 32");
        }
        return width.equals("auto") ? policy.startWidthAuto() : policy.startWidth(Integer.parseInt(width));
    }

    private SamplerOptions sampler() {
        SamplerOptions sampler = SamplerOptions.EXPORTED;
        String temperature = given.text("--temperature");
        if (temperature != null) {
            String[] ends = temperature.split(":", -1);
            try {
                double first = Double.parseDouble(ends[0]);
                sampler = sampler.temperature(first, ends.length == 1 ? first : Double.parseDouble(ends[1]));
            } catch (NumberFormatException error) {
                ends = new String[0];
            }
            if (ends.length < 1 || ends.length > 2) {
                throw new UsageException("--temperature '" + temperature + "' must be A or A:B, such as 0.8:0.4");
            }
        }
        if (given.text("--steps") != null) {
            sampler = sampler.maxSteps(given.number("--steps", 0));
        }
        if (given.text("--confidence") != null) {
            sampler = sampler.confidence(given.real("--confidence", 0));
        }
        if (given.text("--entropy-bound") != null) {
            sampler = sampler.entropyBound(given.real("--entropy-bound", 0));
        }
        if (given.text("--top-k") != null) {
            sampler = sampler.topK(given.number("--top-k", 0));
        }
        if (given.text("--top-p") != null) {
            sampler = sampler.topP(given.real("--top-p", 0));
        }
        if (given.text("--min-p") != null) {
            sampler = sampler.minP(given.real("--min-p", 0));
        }
        for (String text : given.texts("--logit-bias")) {
            String[] parts = text.split("=", 2);
            try {
                sampler = sampler.logitBias(
                        Integer.parseInt(parts[0]), Double.parseDouble(parts[1].replace("inf", "Infinity")));
            } catch (NumberFormatException | IndexOutOfBoundsException error) {
                throw new UsageException("--logit-bias '" + text + "': must be ID=B, such as 17=-5 or 17=-inf");
            }
        }
        return given.text("--stability") == null ? sampler : sampler.stability(given.number("--stability", 0));
    }

    static Loop loop(@Nullable String word) {
        for (Loop loop : Loop.values()) {
            if (word == null || loop.word().equals(word)) {
                return loop;
            }
        }
        throw new UsageException("unknown loop '" + word + "'; choose one of host, graph");
    }

    private static int[] ids(String text) {
        try {
            return Arrays.stream(text.split(",")).map(String::trim).filter(part -> !part.isEmpty())
                    .mapToInt(Integer::parseInt).toArray();
        } catch (NumberFormatException error) {
            throw new UsageException(
                    "--prompt-ids '" + text + "': must be integers separated by commas, such as 1,2,3");
        }
    }

    private static String stdin() {
        if (System.console() != null) {
            throw new UsageException("no prompt; give -p TEXT, --prompt-ids, --prompts, or text on stdin");
        }
        try {
            InputStream in = System.in;
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            byte[] block = new byte[8192];
            for (int count = in.read(block); count >= 0; count = in.read(block)) {
                bytes.write(block, 0, count);
            }
            String text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes.toByteArray())).toString();
            return text.endsWith("\n") ? text.substring(0, text.length() - 1) : text;
        } catch (CharacterCodingException error) {
            throw new UsageException("stdin is not UTF-8 text; convert it first");
        } catch (IOException error) {
            throw new UsageException("stdin cannot be read (" + error.getMessage() + "); give -p TEXT");
        }
    }

    /** On a terminal, without anything that a terminal would obey. */
    private static String shown(String text) {
        return System.console() == null ? text : text.replaceAll("[\\p{Cc}\\p{Cf}&&[^\\n\\t]]", "\uFFFD");
    }

    private static String joined(int[] tokens) {
        return Arrays.toString(tokens).replaceAll("[\\[\\] ]", "");
    }

    /** As {@code dgemma run --json}, and the trajectory where it was asked for. */
    private static Map<String, Object> toMap(Result result) {
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
        if (!result.logprobs.isEmpty()) {
            found.put("logprobs", result.logprobs.stream().map(RunCommand::toMap).collect(Collectors.toList()));
            found.put("score", finite(result.score()));
        }
        if (result.trajectory != null) {
            found.put("trajectory", toMap(result.trajectory));
        }
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
