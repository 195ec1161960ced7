package org.dgemma.jvm;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.dgemma.runtime.ComputePolicy;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Loop;
import org.dgemma.runtime.SamplerOptions;
import org.dgemma.runtime.Structure;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/** What the options of {@code run} say of a generation. */
final class GenerationFlags {
    static final List<String> OPTIONS = Arrays.asList(
            "--loop", "--seed", "--max-new-tokens", "--min-tokens", "--early-commit", "--start-width", "--system",
            "--temperature", "--steps", "--entropy-bound", "--schedule", "--confidence", "--stability", "--top-k", "--top-p",
            "--min-p", "--logit-bias", "--ban", "--stop", "--fallback", "--template", "--draft", "--strength", "--logprobs",
            "--regex", "--json-schema", "--choice");
    static final List<String> FLAGS = Arrays.asList(
            "--fixed-steps", "--adaptive", "--recheck", "--speculate", "--raw", "--trace", "--think",
            "--choice-probabilities");

    private final Arguments given;

    GenerationFlags(Arguments given) {
        this.given = given;
    }

    /** Throws UsageException. */
    GenerateOptions options() {
        if (given.has("--fixed-steps") && given.has("--adaptive")) {
            throw new UsageException("give --fixed-steps or --adaptive, not both");
        }
        GenerateOptions options = GenerateOptions.DEFAULT;
        options = options.maxNewTokens(given.number("--max-new-tokens", options.maxNewTokens))
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
        double[] ends = ends("--temperature", "A or A:B, numbers from 0 to 100, such as 0.8:0.4");
        if (ends != null) {
            sampler = sampler.temperature(ends[0], ends[1]);
        }
        if (given.text("--steps") != null) {
            sampler = sampler.maxSteps(given.number("--steps", 0));
        }
        ends = ends("--entropy-bound", "a positive number of nats, or A:B");
        if (ends != null) {
            sampler = sampler.entropyBound(ends[0], ends[1]);
        }
        String schedule = given.text("--schedule");
        if (schedule != null) {
            sampler = sampler.schedule(ScheduleFile.read(schedule));
        }
        if (given.text("--confidence") != null) {
            sampler = sampler.confidence(given.real("--confidence", 0));
        }
        if (given.text("--stability") != null) {
            sampler = sampler.stability(given.number("--stability", 0));
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
        return biased(sampler);
    }

    /** Both ends of A or A:B; null where the option is not given. */
    private double @Nullable [] ends(String option, String what) {
        String text = given.text(option);
        if (text == null) {
            return null;
        }
        String[] parts = text.split(":", -1);
        try {
            if (parts.length <= 2) {
                return new double[] {Double.parseDouble(parts[0]), Double.parseDouble(parts[parts.length - 1])};
            }
        } catch (NumberFormatException error) {
            // said below
        }
        throw new UsageException(option + " '" + text + "' must be " + what);
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
