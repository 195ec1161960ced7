package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.SortedMap;
import org.dgemma.runtime.engine.Engine;

/** Whether a bundle can do what the options of a generation ask for. */
final class OptionCheck {
    private OptionCheck() {}

    /** Throws UsageException where the bundle cannot do what is asked for. */
    static void check(Engine engine, GenerateOptions options) {
        Manifest manifest = engine.bundle().manifest();
        options.compute.check(engine.bundle(), engine.name(), options.loop);
        SamplerOptions sampler = options.sampler;
        sampler.steps(manifest.sampler);
        List<String> names = sampler.needsCandidates(manifest.sampler);
        if (options.logprobs != null) {
            names.add("logprobs");
        }
        if (options.minTokens > 0) {
            names.add("minTokens");
        }
        if (options.structure != null) {
            names.add(options.structure.name());
        }
        if (options.guidance != null && !manifest.graphs.get(engine.name()).containsKey(Guide.GUIDED)) {
            throw new UsageException("guidance: this bundle has no '" + Guide.GUIDED + "' for " + engine.name()
                    + "; use engine onnx; if the bundle is too old, export it again");
        }
        checkBias(manifest, options);
        Manifest.GraphSpec graph = engine.bundle().graph(engine.name(), options.compute.graphs(options.loop)[0]);
        if (options.loop == Loop.GRAPH) {
            checkFused(graph, sampler.given());
        } else if (!names.isEmpty()) {
            checkCandidates(manifest, options, names, CanvasLoop.candidates(graph));
        }
    }

    private static void checkBias(Manifest manifest, GenerateOptions options) {
        SortedMap<Integer, Double> biases = options.sampler.biases();
        int vocab = manifest.model.vocabSize;
        if (!biases.isEmpty() && biases.lastKey() >= vocab) {
            throw new UsageException("logitBias: id " + biases.lastKey() + " is outside the vocabulary of " + vocab);
        }
        Set<Integer> banned = new HashSet<>();
        biases.forEach((id, bias) -> {
            if (bias == Double.NEGATIVE_INFINITY) {
                banned.add(id);
            }
        });
        if (banned.size() == vocab) {
            throw new UsageException("logitBias bans every id; leave one");
        }
        banned.add(manifest.model.padTokenId);
        Arrays.stream(manifest.model.eosTokenIds).forEach(banned::add);
        if (options.minTokens > 0 && banned.size() == vocab) {
            throw new UsageException("minTokens leaves only banned ids; ban fewer");
        }
    }

    /** @param most how many of the likeliest ids a step puts out */
    private static void checkCandidates(Manifest manifest, GenerateOptions options, List<String> names, int most) {
        if (most == 0) {
            throw new UsageException("this bundle was exported before " + UsageException.listed(names)
                    + (names.size() == 1 ? " was supported" : " were supported") + "; export it again");
        }
        Integer topK = options.sampler.topK;
        String gives = " must be at most " + most + ", the likeliest ids that a step of this bundle gives";
        if (topK != null && topK > most) {
            throw new UsageException("topK " + topK + gives);
        }
        if (options.logprobs == null) {
            return;
        }
        if (options.logprobs > most) {
            throw new UsageException("logprobs " + options.logprobs + gives);
        }
        for (float each : options.sampler.temperatures(manifest.sampler)) {
            if (each == (float) SamplerOptions.GREEDY) {
                throw new UsageException("logprobs come from the tempered distribution, which is certain at temperature 0; "
                        + "give a higher one");
            }
        }
    }

    /** @param given names of the sampler's options */
    private static void checkFused(Manifest.GraphSpec fused, List<String> given) {
        List<String> outside = new ArrayList<>(given);
        outside.retainAll(Arrays.asList("topK", "topP", "minP", "logitBias"));
        if (!outside.isEmpty()) {
            throw new UsageException(UsageException.listed(outside)
                    + " cannot be combined with loop graph: graph 'generate' returns no candidates; use host");
        }
        List<String> lacks = GraphLoop.lacks(fused);
        if (!given.isEmpty() && !lacks.isEmpty()) {
            throw new UsageException("this bundle's graph 'generate' was exported before it had inputs for "
                    + UsageException.listed(given) + " (" + String.join(", ", lacks)
                    + "); export it again, or use loop host");
        }
    }
}
