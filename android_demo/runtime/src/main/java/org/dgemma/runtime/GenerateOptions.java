package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.jspecify.annotations.Nullable;

/** How one generation runs. Immutable; start from {@link #DEFAULT} and change what you need. */
public final class GenerateOptions {
    /** 256 new tokens, seed 0, adaptive stop, host loop over every position, chat template, an empty prefix. */
    public static final GenerateOptions DEFAULT = new GenerateOptions(new Draft());

    /** Of a draft, where none is given. */
    static final double STRENGTH = 0.5;

    public final int maxNewTokens;
    /** No position among so many of the answer's first takes a stop token or padding. */
    public final int minTokens;
    /** Of all noise; its 64 bits are read as unsigned. */
    public final long seed;
    /** End a canvas early, once it is stable and certain; otherwise always run all steps. */
    public final boolean adaptive;
    public final Loop loop;
    /** Whether canvases are denoised, or tokens decoded one by one. */
    public final Decoder decoder;
    /** How much of a canvas is computed. */
    public final ComputePolicy compute;
    /** What differs from the sampler that the bundle was exported with. */
    public final SamplerOptions sampler;
    /** Texts that must not come up, each one token. */
    public final List<String> ban;
    /** Texts that end an answer before them. */
    public final List<String> stop;
    /** Where canvases say nothing but padding or a stop token, decode the answer token by token instead. */
    public final boolean fallback;
    /** The answer, with holes that the model fills; null for none. */
    public final @Nullable String template;
    /** A text to begin the canvases with, instead of noise; null for none. */
    public final @Nullable String draft;
    /** How much of the draft is noise, above 0 and at most 1: the share of its tokens, and of the steps that run. */
    public final double strength;
    /** How many of the likeliest ids {@link Result#logprobs} names; null for no log-probabilities. */
    public final @Nullable Integer logprobs;
    /** What steps are pushed away from, and how far; null where they are not. */
    public final @Nullable Guidance guidance;
    /** What the answer may be; it always is that, unless it was cancelled. Null for any text. */
    public final @Nullable Structure structure;
    /** Give the probability of each choice of the structure in {@link Result#choiceProbabilities}. */
    public final boolean choiceProbabilities;
    /** Take a text prompt as it is, without the bundle's chat template. */
    public final boolean raw;
    /** Go on from the prefix of earlier generations instead of an empty one. */
    public final boolean continued;
    /** Record every step in {@link Result#trajectory}. */
    public final boolean trace;
    /** A system turn before the prompt or the messages. */
    public final @Nullable String system;
    /** Let the model think before it answers, where the chat template has a switch for it. */
    public final boolean think;
    /** Declarations of what the model may call; JSON values, which must not be changed. */
    public final List<Map<String, @Nullable Object>> tools;

    /** The values of options in the making, with the defaults. */
    private static final class Draft {
        int maxNewTokens = 256;
        int minTokens;
        long seed;
        boolean adaptive = true;
        Loop loop = Loop.HOST;
        Decoder decoder = Decoder.DIFFUSION;
        ComputePolicy compute = ComputePolicy.ALL;
        SamplerOptions sampler = SamplerOptions.EXPORTED;
        List<String> ban = Collections.emptyList();
        List<String> stop = Collections.emptyList();
        boolean fallback;
        @Nullable String template;
        @Nullable String draft;
        double strength = STRENGTH;
        @Nullable Integer logprobs;
        @Nullable Guidance guidance;
        @Nullable Structure structure;
        boolean choiceProbabilities;
        boolean raw;
        boolean continued;
        boolean trace;
        @Nullable String system;
        boolean think;
        List<Map<String, @Nullable Object>> tools = Collections.emptyList();
    }

    private GenerateOptions(Draft draft) {
        maxNewTokens = draft.maxNewTokens;
        minTokens = draft.minTokens;
        seed = draft.seed;
        adaptive = draft.adaptive;
        loop = draft.loop;
        decoder = draft.decoder;
        compute = draft.compute;
        sampler = draft.sampler;
        ban = draft.ban;
        stop = draft.stop;
        fallback = draft.fallback;
        template = draft.template;
        this.draft = draft.draft;
        strength = draft.strength;
        logprobs = draft.logprobs;
        guidance = draft.guidance;
        structure = draft.structure;
        choiceProbabilities = draft.choiceProbabilities;
        raw = draft.raw;
        continued = draft.continued;
        trace = draft.trace;
        system = draft.system;
        think = draft.think;
        tools = draft.tools;
        OptionRules.check(this);
    }

    private GenerateOptions with(Consumer<Draft> change) {
        Draft draft = new Draft();
        draft.maxNewTokens = maxNewTokens;
        draft.minTokens = minTokens;
        draft.seed = seed;
        draft.adaptive = adaptive;
        draft.loop = loop;
        draft.decoder = decoder;
        draft.compute = compute;
        draft.sampler = sampler;
        draft.ban = ban;
        draft.stop = stop;
        draft.fallback = fallback;
        draft.template = template;
        draft.draft = this.draft;
        draft.strength = strength;
        draft.logprobs = logprobs;
        draft.guidance = guidance;
        draft.structure = structure;
        draft.choiceProbabilities = choiceProbabilities;
        draft.raw = raw;
        draft.continued = continued;
        draft.trace = trace;
        draft.system = system;
        draft.think = think;
        draft.tools = tools;
        change.accept(draft);
        return new GenerateOptions(draft);
    }

    /** Whether they say something about the conversation, which then is given whole. */
    boolean speaks() {
        return system != null || think || !tools.isEmpty();
    }

    /** At most so many new tokens, 1 or more; ceil(K / N) canvases are denoised at most. */
    public GenerateOptions maxNewTokens(int value) {
        if (value < 1) {
            throw new UsageException("maxNewTokens " + value + " must be an integer, 1 or more");
        }
        return with(draft -> draft.maxNewTokens = value);
    }

    /**
     * No position among the first {@code value} of the answer takes a stop token or padding, across canvases; the answer ends
     * where the context does, all the same. Needs the host loop, and steps that put out candidates.
     *
     * @throws UsageException it is below 0, above {@link #maxNewTokens}, or next to a template, a fallback, stop strings or
     *     {@link ComputePolicy#speculate}
     */
    public GenerateOptions minTokens(int value) {
        if (value < 0) {
            throw new UsageException("minTokens " + value + " must be an integer from 0 to maxNewTokens, " + maxNewTokens);
        }
        return with(draft -> draft.minTokens = value);
    }

    public GenerateOptions seed(long value) {
        return with(draft -> draft.seed = value);
    }

    public GenerateOptions adaptive(boolean value) {
        return with(draft -> draft.adaptive = value);
    }

    public GenerateOptions loop(Loop value) {
        if (value == null) {
            throw new UsageException("loop null is unknown; choose one of host, graph");
        }
        return with(draft -> draft.loop = value);
    }

    /** The loop, the stop rule and all that steps sample by need diffusion. */
    public GenerateOptions decoder(Decoder value) {
        if (value == null) {
            throw new UsageException("decoder null is unknown; choose one of diffusion, autoregressive");
        }
        return with(draft -> draft.decoder = value);
    }

    /** The tokens may differ from those of all of it, but for {@link ComputePolicy#speculate}, whose are those of greedy decoding. */
    public GenerateOptions compute(ComputePolicy value) {
        if (value == null) {
            throw new UsageException("compute null must be ComputePolicy.ALL, or a policy that leaves something out");
        }
        return with(draft -> draft.compute = value);
    }

    public GenerateOptions sampler(SamplerOptions value) {
        if (value == null) {
            throw new UsageException("sampler null must be SamplerOptions.EXPORTED, or options that change something");
        }
        return with(draft -> draft.sampler = value);
    }

    /**
     * Texts that must not come up, in place of those before: the ids that read exactly so, alone or behind a space. A text that
     * is no single token throws UsageException when the generation begins.
     */
    public GenerateOptions ban(String... texts) {
        return with(draft -> draft.ban = listed("ban", "ids or non-empty texts", texts));
    }

    /**
     * Where canvases say nothing but padding or a stop token, decode the answer token by token instead, which
     * {@link Result#warnings} says; {@link Result#loop} is then decode.
     *
     * @throws UsageException next to bans, biases, a template or a least length
     */
    public GenerateOptions fallback(boolean value) {
        return with(draft -> draft.fallback = value);
    }

    /** End the answer before any of these texts, in place of those before; thoughts and calls are not searched. */
    public GenerateOptions stop(String... texts) {
        return with(draft -> draft.stop = listed("stop", "non-empty strings", texts));
    }

    private static List<String> listed(String name, String kind, String... texts) {
        if (Arrays.stream(texts).anyMatch(text -> text == null || text.isEmpty())) {
            throw new UsageException(name + " " + Arrays.stream(texts).map(text -> text == null ? "null" : Json.repr(text))
                    .collect(Collectors.joining(", ", "[", "]")) + " must be " + kind);
        }
        return Collections.unmodifiableList(Arrays.asList(texts.clone()));
    }

    /**
     * The answer with holes such as {@code {{8}}} of 8 tokens, which the model fills; all else stays exactly. It must fit on one
     * canvas. Null for none. Needs the host loop.
     *
     * @throws UsageException it is empty, has no hole, or is given next to a draft, a fallback, stop strings, a least length, a
     *     canvas that starts narrow, or {@link ComputePolicy#speculate}
     */
    public GenerateOptions template(@Nullable String text) {
        if (text != null) {
            Template.read(notEmpty("template", text));
        }
        return with(draft -> draft.template = text);
    }

    /** As {@link #draft(String, double)}, half of it noise. */
    public GenerateOptions draft(@Nullable String text) {
        return draft(text, STRENGTH);
    }

    /**
     * Begin the canvases with a text, its stop token and padding, instead of noise. Null for none. Needs the host loop.
     *
     * @param strength the share of its tokens that are noise, and of the steps that run, the last ones; above 0 and at most 1
     * @throws UsageException the text is empty, the share is out of its range, or it is given next to a template, a canvas that
     *     starts narrow, or {@link ComputePolicy#speculate}
     */
    public GenerateOptions draft(@Nullable String text, double strength) {
        if (text != null) {
            notEmpty("draft", text);
        }
        SamplerOptions.share("strength", strength);
        return with(draft -> {
            draft.draft = text;
            draft.strength = strength;
        });
    }

    private static String notEmpty(String name, String text) {
        if (text.isEmpty()) {
            throw new UsageException(name + " must be non-empty text");
        }
        return text;
    }

    /** Give the log-probability of every token in {@link Result#logprobs}, and those of so many of the likeliest ids. */
    public GenerateOptions logprobs(int count) {
        if (count < 0) {
            throw new UsageException("logprobs " + count + " must be an integer, 0 or more");
        }
        return with(draft -> draft.logprobs = count);
    }

    /**
     * What steps are pushed away from, and how far. Null for nothing. Needs the host loop, and every position in every step.
     *
     * @throws UsageException next to a {@link #compute} that leaves positions out
     */
    public GenerateOptions guidance(@Nullable Guidance value) {
        return with(draft -> draft.guidance = value);
    }

    /**
     * What the answer may be, whatever the stop rule, the limit and the seed. Null for any text. Needs the host loop, and steps
     * that put out candidates.
     *
     * @throws UsageException next to a template, a fallback, stop strings, a least length, thinking, log-probabilities, what
     *     steers the draw, a canvas that starts narrow, or {@link ComputePolicy#speculate}
     */
    public GenerateOptions structure(@Nullable Structure value) {
        return with(draft -> draft.structure = value);
    }

    /**
     * Give the probability of each choice: every different beginning of one costs a step at temperature 1, before the answer.
     *
     * @throws UsageException the {@link #structure} has no choices
     */
    public GenerateOptions choiceProbabilities(boolean value) {
        return with(draft -> draft.choiceProbabilities = value);
    }

    public GenerateOptions raw(boolean value) {
        return with(draft -> draft.raw = value);
    }

    public GenerateOptions continued(boolean value) {
        return with(draft -> draft.continued = value);
    }

    public GenerateOptions trace(boolean value) {
        return with(draft -> draft.trace = value);
    }

    /** Null for none. */
    public GenerateOptions system(@Nullable String value) {
        if (value != null && Trim.both(value).isEmpty()) {
            throw new UsageException("system must be a non-empty string");
        }
        return with(draft -> draft.system = value);
    }

    public GenerateOptions think(boolean value) {
        return with(draft -> draft.think = value);
    }

    /**
     * A list of declarations {@code {"type": "function", "function": {"name", "description", "parameters"}}} as JSON
     * text.
     */
    public GenerateOptions tools(String json) {
        try {
            Object values = Json.parse(json);
            return with(draft -> draft.tools = Tools.checked(values));
        } catch (JsonException error) {
            throw new UsageException(
                    "tools are not JSON (" + error.getMessage() + "); write a list of declarations", error);
        }
    }

    /** As above, as maps, lists and texts, which are copied. */
    public GenerateOptions tools(List<?> declarations) {
        return with(draft -> draft.tools = Tools.checked(declarations));
    }
}
