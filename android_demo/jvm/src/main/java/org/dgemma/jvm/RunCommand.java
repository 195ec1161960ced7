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
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.function.BiFunction;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.dgemma.format.Json;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Samples;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.UsageException;

/** {@code run}: a prompt and its answer or several, or a file of prompts and one JSON object a line. */
final class RunCommand {
    static final List<String> OPTIONS = joined(GenerationFlags.OPTIONS, "-p", "--prompt", "--prompt-ids", "--prompts",
            "--messages", "--engine", "--target", "--threads", "--cache", "--n");
    static final List<String> FLAGS = joined(GenerationFlags.FLAGS, "--json");

    private final Arguments given;
    private final PrintStream out;
    private final PrintStream err;

    RunCommand(Arguments given, PrintStream out, PrintStream err) {
        this.given = given;
        this.out = out;
        this.err = err;
    }

    void run() {
        GenerationFlags flags = new GenerationFlags(given);
        GenerateOptions options = flags.options();
        int n = given.number("--n", 1);
        String file = given.text("--prompts");
        check(file != null, n);
        Asked asked = file == null ? asked(options) : null;
        List<PromptFile.Line> lines = file == null ? Collections.emptyList() : PromptFile.read(file, options);
        try (Session session = Session.load(given.bundle, given.session())) {
            session.warnings().forEach(line -> err.println("warning: " + line));
            flags.profile.warnings(session.bundle()).forEach(line -> err.println("warning: " + line));
            if (asked == null) {
                lines.forEach(line -> out.println(Json.write(ResultJson.toMap(line.run(session)))));
                return;
            }
            if (n != 1) {
                sample(asked.samples(session, n), session);
                return;
            }
            Result result = asked.answer(session);
            if (given.has("--json")) {
                out.println(Json.write(ResultJson.toMap(result)));
            } else {
                show(result, session);
            }
        }
    }

    /** Whether the output can hold everything that is asked for; throws UsageException. */
    private void check(boolean severalPrompts, int n) {
        List<String> sources = Stream.of("-p", "--prompt", "--prompt-ids", "--messages", "--prompts")
                .filter(name -> given.text(name) != null).collect(Collectors.toList());
        if (sources.size() > 1) {
            throw new UsageException("give either " + sources.get(0) + " or " + sources.get(1) + ", not both");
        }
        boolean json = given.has("--json") || severalPrompts;
        for (String name : Arrays.asList("--logprobs", "--choice-probabilities", "--trace")) {
            if (!json && (given.text(name) != null || given.has(name))) {
                throw new UsageException(name + " needs an output that can hold it; give --json as well");
            }
        }
        if (n != 1 && given.has("--trace")) {
            throw new UsageException("--n gives several answers, which --trace cannot hold; "
                    + "leave it out, or run once per seed");
        }
        if (severalPrompts && n != 1) {
            throw new UsageException("--prompts gives several answers, which --n cannot hold; leave one out");
        }
    }

    /** The first of the answers that most agree with, and how many that are. */
    private void sample(Samples samples, Session session) {
        if (given.has("--json")) {
            out.println(Json.write(ResultJson.toMap(samples)));
            return;
        }
        show(samples.best(), session);
        int same = samples.votes().values().iterator().next();
        err.println(String.format(Locale.ROOT, "%d of %,d answers %s this", same, samples.results.size(),
                same > 1 ? "say" : "says"));
    }

    private void show(Result result, Session session) {
        boolean readable = session.bundle().manifest().tokenizer != null;
        out.println(readable ? shown(answer(result)) : joined(result.tokens));
        result.warnings.forEach(err::println);
    }

    /** A prompt or a conversation, with options. */
    private interface Asked {
        Result answer(Session session);

        Samples samples(Session session, int n);
    }

    private Asked asked(GenerateOptions options) {
        String messages = given.text("--messages");
        if (messages != null) {
            ConversationFile file = ConversationFile.read(messages, options);
            return asked(session -> session.generate(file.messages, file.options, null),
                    (session, n) -> session.sample(file.messages, file.options, n));
        }
        String ids = given.text("--prompt-ids");
        if (ids != null) {
            int[] prompt = ids(ids);
            return asked(session -> session.generate(prompt, options, null),
                    (session, n) -> session.sample(prompt, options, n));
        }
        String text = given.text("-p") == null ? given.text("--prompt") : given.text("-p");
        String prompt = text == null && options.template == null ? stdin() : text;
        return asked(session -> session.generate(prompt, options, null),
                (session, n) -> session.sample(prompt, options, n));
    }

    private static Asked asked(Function<Session, Result> answer, BiFunction<Session, Integer, Samples> samples) {
        return new Asked() {
            @Override
            public Result answer(Session session) {
                return answer.apply(session);
            }

            @Override
            public Samples samples(Session session, int n) {
                return samples.apply(session, n);
            }
        };
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
            String read = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes.toByteArray())).toString();
            String text = read.endsWith("\n") ? read.substring(0, read.length() - 1) : read;
            if (text.isEmpty()) {
                throw new UsageException("no prompt: stdin is empty; give -p TEXT, --prompt-ids, or text on stdin");
            }
            return text;
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

    private static List<String> joined(List<String> first, String... more) {
        return Stream.concat(first.stream(), Stream.of(more)).collect(Collectors.toList());
    }

    private static String joined(int[] tokens) {
        return Arrays.toString(tokens).replaceAll("[\\[\\] ]", "");
    }
}
