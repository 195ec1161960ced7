package org.dgemma.jvm;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.runtime.Decoder;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Guidance;
import org.dgemma.runtime.Loop;
import org.dgemma.runtime.Profile;
import org.dgemma.runtime.SamplerOptions;
import org.dgemma.runtime.Structure;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/** What the options of {@code run} say of a generation. */
final class GenerationFlags {
    static final List<String> OPTIONS = Arrays.asList(
            "--loop", "--decoder", "--profile", "--guidance", "--negative", "--guidance-steps", "--seed", "--max-new-tokens",
            "--min-tokens", "--early-commit", "--start-width", "--system",
            "--temperature", "--steps", "--entropy-bound", "--schedule", "--confidence", "--stability", "--top-k", "--top-p",
            "--min-p", "--logit-bias", "--ban", "--stop", "--fallback", "--template", "--draft", "--strength", "--logprobs",
            "--regex", "--json-schema", "--choice", "--structure");
    static final List<String> FLAGS = Arrays.asList(
            "--fixed-steps", "--adaptive", "--recheck", "--speculate", "--raw", "--trace", "--think",
            "--choice-probabilities");

    /** What it says where the options say nothing. */
    final Profile profile;
    private final Arguments given;

    /** Throws UsageException for the file of --profile. */
    GenerationFlags(Arguments given) {
        this.given = given;
        this.profile = given.text("--profile") == null ? Profile.NONE : ProfileFile.read(given.text("--profile"));
    }

    /** Throws UsageException. */
    GenerateOptions options() {
        if (given.has("--fixed-steps") && given.has("--adaptive")) {
            throw new UsageException("give --fixed-steps or --adaptive, not both");
        }
        Profile steps = profile.with(steps());
        GenerateOptions options = GenerateOptions.DEFAULT;
        options = options.maxNewTokens(given.number("--max-new-tokens", options.maxNewTokens))
                .seed(given.seed())
                .adaptive(!given.has("--fixed-steps"))
                .loop(loop(given.text("--loop")))
                .decoder(decoder())
                .compute(steps.compute())
                .sampler(cut(steps.sampler()))
                .guidance(guidance())
                .raw(given.has("--raw"))
                .system(given.text("--system"))
                .think(given.has("--think"))
                .trace(given.has("--trace"))
                .ban(given.texts("--ban"))
                .stop(given.texts("--stop"))
                .fallback(fallback())
                .template(given.text("--template"))
                .draft(draft(), given.real("--strength", options.strength))
                .minTokens(given.number("--min-tokens", 0))
                .structure(structure())
                .choiceProbabilities(given.has("--choice-probabilities"));
        return given.text("--logprobs") == null ? options : options.logprobs(given.number("--logprobs", 0));
    }

    /** What the answer may be; null where nothing says so. */
    private @Nullable Structure structure() {
        String regex = given.text("--regex");
        String schema = given.text("--json-schema");
        String[] choices = Arrays.stream(given.texts("--choice"))
                .flatMap(text -> Arrays.stream(text.split("\\|", -1))).toArray(String[]::new);
        List<String> names = new ArrayList<>();
        for (String name : Arrays.asList("--regex", "--json-schema", "--choice")) {
            if (given.text(name) != null) {
                names.add(name);
            }
        }
        if (names.size() > 1) {
            throw new UsageException("give one of --regex, --json-schema and --choice, not " + String.join(" and ", names));
        }
        String compiled = given.text("--structure");
        if (compiled != null && !names.isEmpty()) {
            throw new UsageException("give --structure or " + names.get(0) + ", not both");
        }
        if (compiled != null) {
            return Structure.read(new File(compiled));
        }
        if (schema != null) {
            String text = TextFile.read("--json-schema", schema);
            try {
                return Structure.jsonSchema(text);
            } catch (UsageException error) {
                throw new UsageException("--json-schema " + schema + error.getMessage().substring("jsonSchema".length()), error);
            }
        }
        return regex != null ? Structure.regex(regex) : choices.length > 0 ? Structure.choices(choices) : null;
    }

    private boolean fallback() {
        String decoder = given.text("--fallback");
        if (decoder != null && !decoder.equals("autoregressive")) {
            throw new UsageException("--fallback '" + decoder + "' is unknown; choose autoregressive");
        }
        return decoder != null;
    }

    private @Nullable String draft() {
        String path = given.text("--draft");
        String text = path == null ? null : TextFile.read("--draft", path);
        return text != null && text.endsWith("\n") ? text.substring(0, text.length() - 1) : text;
    }

    private Decoder decoder() {
        String word = given.text("--decoder");
        for (Decoder decoder : Decoder.values()) {
            if (word == null || decoder.word().equals(word)) {
                return decoder;
            }
        }
        throw new UsageException("--decoder '" + word + "': choose one of diffusion, autoregressive");
    }

    private @Nullable Guidance guidance() {
        if (given.text("--guidance") == null) {
            for (String name : Arrays.asList("--negative", "--guidance-steps")) {
                if (given.text(name) != null) {
                    throw new UsageException(name + " needs --guidance; give it as well, or leave this out");
                }
            }
            return null;
        }
        Guidance found = Guidance.of(given.real("--guidance", 1));
        String negative = given.text("--negative");
        found = negative == null ? found : found.negative(negative);
        String steps = given.text("--guidance-steps");
        if (steps == null) {
            return found;
        }
        String[] ends = steps.split(":", 2);
        try {
            int first = Integer.parseInt(ends[0].trim());
            return found.steps(first, ends.length < 2 || ends[1].isEmpty() ? first : Integer.parseInt(ends[1].trim()));
        } catch (NumberFormatException error) {
            throw new UsageException("--guidance-steps '" + steps + "' must be A:B, two step numbers such as 2:8", error);
        }
    }

    /** What a profile may say as well, by its names. */
    private Map<String, Object> steps() {
        Map<String, Object> found = new HashMap<>();
        put(found, "temperature", given.text("--temperature"));
        put(found, "entropy_bound", given.text("--entropy-bound"));
        put(found, "max_steps", given.text("--steps") == null ? null : given.number("--steps", 0));
        put(found, "schedule", given.text("--schedule") == null ? null : ScheduleFile.read(given.text("--schedule")));
        put(found, "confidence", given.text("--confidence") == null ? null : given.real("--confidence", 0));
        put(found, "stability", given.text("--stability") == null ? null : given.number("--stability", 0));
        put(found, "early_commit", given.text("--early-commit") == null ? null : given.real("--early-commit", 0));
        put(found, "start_width", width());
        put(found, "recheck", given.has("--recheck") ? true : null);
        put(found, "speculate", given.has("--speculate") ? true : null);
        return found;
    }

    private static void put(Map<String, Object> values, String name, @Nullable Object value) {
        if (value != null) {
            values.put(name, value);
        }
    }

    private @Nullable Object width() {
        String text = given.text("--start-width");
        if (text == null || text.equals("auto")) {
            return text;
        }
        if (!text.matches("[0-9]{1,9}")) {
            throw new UsageException("--start-width '" + text + "': must be auto, or a number of positions, such as 32");
        }
        return Integer.valueOf(text);
    }

    /** With the options of the draw. */
    private SamplerOptions cut(SamplerOptions sampler) {
        if (given.text("--top-k") != null) {
            sampler = sampler.topK(given.number("--top-k", 0));
        }
        if (given.text("--top-p") != null) {
            sampler = sampler.topP(given.real("--top-p", 0));
        }
        if (given.text("--min-p") != null) {
            sampler = sampler.minP(given.real("--min-p", 0));
        }
        return biased(sampler);
    }

    private SamplerOptions biased(SamplerOptions sampler) {
        for (String text : given.texts("--logit-bias")) {
            String[] parts = text.split("=", 2);
            try {
                sampler = sampler.logitBias(
                        Integer.parseInt(parts[0]), Double.parseDouble(parts[1].replace("inf", "Infinity")));
            } catch (NumberFormatException | IndexOutOfBoundsException error) {
                throw new UsageException("--logit-bias '" + text + "': must be ID=B, such as 17=-5 or 17=-inf");
            }
        }
        return sampler;
    }

    static Loop loop(@Nullable String word) {
        for (Loop loop : Loop.values()) {
            if (word == null || loop.word().equals(word)) {
                return loop;
            }
        }
        throw new UsageException("loop '" + word + "' is unknown; choose one of host, graph");
    }
}
