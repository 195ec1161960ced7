package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Which options of a generation cannot be combined, whatever the bundle. */
final class OptionRules {
    private static final String GREEDY = ", whose tokens come from greedy decoding; leave one out";
    private static final String NO_STEPS = "has no denoising steps";

    private OptionRules() {}

    /** Throws UsageException. */
    static void check(GenerateOptions options) {
        if (options.raw && options.speaks()) {
            throw new UsageException(
                    "raw skips the chat template, which system, think and tools need; leave it out");
        }
        needDiffusion(options, options.compute.given(), NO_STEPS);
        needDiffusion(options, names(options.trace, "trace"), NO_STEPS);
        needDiffusion(options, names(options.loop != Loop.HOST, "loop"), NO_STEPS);
        needDiffusion(options, names(!options.adaptive, "adaptive"), NO_STEPS);
        checkGiven(options);
        checkLeast(options);
        checkCandidates(options);
        checkStructure(options);
        if (options.guidance != null) {
            needHost(options, "guidance", "the other graphs have no second pass");
            leave(options.compute.given(), "guidance needs every position in every step");
        }
        needDiffusion(options, options.sampler.given(), "is greedy");
        needDiffusion(options, names(options.fallback, "fallback"), "is what it falls back to");
    }

    /** Throws UsageException where these are given to decode token by token. */
    private static void needDiffusion(GenerateOptions options, List<String> names, String why) {
        if (options.decoder == Decoder.AUTOREGRESSIVE && !names.isEmpty()) {
            throw new UsageException(UsageException.listed(names) + (names.size() == 1 ? " needs" : " need")
                    + " decoder diffusion: autoregressive decoding " + why);
        }
    }

    /** Throws UsageException unless every step of a canvas is a call of its own. */
    private static void needHost(GenerateOptions options, String name, String why) {
        if (options.decoder == Decoder.AUTOREGRESSIVE || options.loop != Loop.HOST) {
            throw new UsageException(name + " needs decoder diffusion and loop host: " + why);
        }
    }

    /** Bans and log-probabilities. */
    private static void checkCandidates(GenerateOptions options) {
        needDiffusion(options, names(!options.ban.isEmpty(), "ban"), "returns a single token, without candidates");
        List<String> greedy = names(options.compute.speculate, "speculate", options.fallback, "fallback");
        List<String> names = names(!options.ban.isEmpty(), "ban", options.sampler.tilts(), "logitBias");
        if (!greedy.isEmpty() && !names.isEmpty()) {
            throw new UsageException(UsageException.listed(names) + " cannot be combined with "
                    + UsageException.listed(greedy) + GREEDY);
        }
        if (options.logprobs == null) {
            return;
        }
        needHost(options, "logprobs", "the other graphs return only tokens");
        if (options.compute.speculate) {
            throw new UsageException("logprobs cannot be combined with speculate" + GREEDY);
        }
    }

    /** The names behind what is true. */
    private static List<String> names(Object... pairs) {
        List<String> found = new ArrayList<>();
        for (int i = 0; i < pairs.length; i += 2) {
            if ((Boolean) pairs[i]) {
                found.add((String) pairs[i + 1]);
            }
        }
        return found;
    }

    /** Template and draft. */
    private static void checkGiven(GenerateOptions options) {
        if (options.draft == null && options.strength != GenerateOptions.STRENGTH) {
            throw new UsageException("strength says how much of a draft is noise; give draft as well, or leave it out");
        }
        if (options.template == null && options.draft == null) {
            return;
        }
        if (options.template != null && options.draft != null) {
            throw new UsageException("give template or draft, not both");
        }
        String name = options.template == null ? "draft" : "template";
        needHost(options, name, "otherwise every canvas starts from noise");
        leave(options.compute.ofCanvas(), name + " fills the whole canvas");
        if (options.template != null) {
            leave(names(!options.stop.isEmpty(), "stop", options.fallback, "fallback"),
                    "template determines where the answer ends");
        }
    }

    private static void checkLeast(GenerateOptions options) {
        int least = options.minTokens;
        if (least > options.maxNewTokens) {
            throw new UsageException(
                    "minTokens " + least + " must be an integer from 0 to maxNewTokens, " + options.maxNewTokens);
        }
        if (least == 0) {
            return;
        }
        needHost(options, "minTokens", "otherwise only the likeliest id is taken");
        List<String> others = names(options.compute.speculate, "speculate", options.fallback, "fallback",
                !options.stop.isEmpty(), "stop", options.template != null, "template");
        if (!others.isEmpty()) {
            throw new UsageException("minTokens cannot be combined with " + UsageException.listed(others)
                    + ", which can end it sooner; leave one out");
        }
    }

    /** What an answer of a language cannot go with. */
    private static void checkStructure(GenerateOptions options) {
        Structure structure = options.structure;
        if (options.choiceProbabilities && (structure == null || structure.choices.isEmpty())) {
            throw new UsageException("choiceProbabilities needs choices; give them, or leave it out");
        }
        if (structure == null) {
            return;
        }
        String name = structure.name();
        needHost(options, name, "otherwise the probabilities of other ids are not known");
        leave(options.compute.ofCanvas(), name + " needs the whole canvas from its first step on");
        leave(names(!options.stop.isEmpty(), "stop", options.fallback, "fallback", options.template != null, "template",
                options.minTokens > 0, "minTokens"), name + " determines what the answer is and where it ends");
        List<String> steers = options.sampler.given();
        steers.retainAll(Arrays.asList("topK", "topP", "minP", "logitBias"));
        steers.addAll(names(!options.ban.isEmpty(), "ban", options.logprobs != null, "logprobs"));
        leave(steers, name + " takes the likeliest ids that fit instead of drawing");
        if (options.think) {
            throw new UsageException(name + " covers the whole answer, thoughts included; leave think out");
        }
    }

    private static void leave(List<String> names, String why) {
        if (!names.isEmpty()) {
            throw new UsageException(why + "; leave " + UsageException.listed(names) + " out");
        }
    }
}
