package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * How one generation samples: what differs from the sampler that the bundle was exported with. Immutable; start from
 * {@link #EXPORTED} and change what you need.
 */
public final class SamplerOptions {
    /** As the bundle was exported. */
    public static final SamplerOptions EXPORTED = new SamplerOptions();

    /** The temperature that stands for 0: the likeliest id outweighs any other, and no logit over it overflows. */
    static final double GREEDY = 1e-20;

    /** Below it is 0: heads multiply the logits that a draw falls among once more, and a last bit would decide. */
    private static final double COLDEST = 0.01;

    private static final double HOTTEST = 100;

    /** Over the lowest temperature it is still a number. */
    private static final double LARGEST_BIAS = 1e100;

    private @Nullable Double first;
    private @Nullable Double last;
    private @Nullable Integer maxSteps;
    private @Nullable Double confidence;
    private @Nullable Integer stability;
    @Nullable Double entropyBound;
    @Nullable Integer topK;
    @Nullable Double topP;
    @Nullable Double minP;
    private SortedMap<Integer, Double> biases = new TreeMap<>();

    private SamplerOptions() {}

    private SamplerOptions with(Consumer<SamplerOptions> change) {
        SamplerOptions copy = new SamplerOptions();
        copy.first = first;
        copy.last = last;
        copy.maxSteps = maxSteps;
        copy.confidence = confidence;
        copy.stability = stability;
        copy.entropyBound = entropyBound;
        copy.topK = topK;
        copy.topP = topP;
        copy.minP = minP;
        copy.biases = biases;
        change.accept(copy);
        return copy;
    }

    /** One temperature for all steps; 0, and what is below 0.01, takes the likeliest id of every position. */
    public SamplerOptions temperature(double value) {
        return temperature(value, value);
    }

    /**
     * Temperature {@code a} of the first step, and {@code b}, what it tends to after the last: b + (a − b) · r / T with r of T
     * steps remaining.
     */
    public SamplerOptions temperature(double a, double b) {
        for (double end : new double[] {a, b}) {
            if (!(end >= 0 && end <= HOTTEST)) {
                throw new UsageException("temperature " + end + " must be a number from 0 to 100");
            }
        }
        return with(copy -> {
            copy.first = a;
            copy.last = b;
        });
    }

    /** At most so many denoising steps for one canvas, no more than the bundle was exported with. */
    public SamplerOptions maxSteps(int value) {
        if (value < 1) {
            throw new UsageException("maxSteps " + value + " must be 1 or more");
        }
        return with(copy -> copy.maxSteps = value);
    }

    /** Nats that the mean entropy must be below for a stop. */
    public SamplerOptions confidence(double nats) {
        if (!(nats > 0 && nats < Double.POSITIVE_INFINITY)) {
            throw new UsageException("confidence " + nats + " must be a positive number of nats");
        }
        return with(copy -> copy.confidence = nats);
    }

    /** Steps for which the likeliest ids must not change before a stop. */
    public SamplerOptions stability(int steps) {
        if (steps < 0) {
            throw new UsageException("stability " + steps + " must be 0 or more");
        }
        return with(copy -> copy.stability = steps);
    }

    /** Nats that positions may have ahead of them and still be accepted; above the bundle's, its steps must put out draws. */
    public SamplerOptions entropyBound(double nats) {
        if (!(nats > 0 && nats < Double.POSITIVE_INFINITY)) {
            throw new UsageException("entropyBound " + nats + " must be a positive number of nats");
        }
        return with(copy -> copy.entropyBound = nats);
    }

    /** Draw only among so many of the likeliest ids, at most as many as a step of the bundle puts out. */
    public SamplerOptions topK(int count) {
        if (count < 1) {
            throw new UsageException("topK " + count + " must be 1 or more");
        }
        return with(copy -> copy.topK = count);
    }

    /** Draw only among the likeliest ids that together have this probability. */
    public SamplerOptions topP(double mass) {
        return with(copy -> copy.topP = share("topP", mass));
    }

    /** Draw only among ids that are at least this many times as likely as the likeliest. */
    public SamplerOptions minP(double share) {
        return with(copy -> copy.minP = share("minP", share));
    }

    /**
     * Add {@code bias} to the logit of an id, which makes it likelier or less likely; negative infinity bans it, 0 takes an
     * earlier bias back. A step gives the likeliest ids alone, and so no other can be lifted.
     */
    public SamplerOptions logitBias(int id, double bias) {
        if (id < 0) {
            throw new UsageException("logitBias: id " + id + " must be 0 or more");
        }
        if (bias != Double.NEGATIVE_INFINITY && !(Math.abs(bias) <= LARGEST_BIAS)) {
            throw new UsageException("logitBias of id " + id + ": " + bias + " must be a number from -1e100 to 1e100, or -Infinity");
        }
        SortedMap<Integer, Double> changed = new TreeMap<>(biases);
        if (bias == 0) {
            changed.remove(id);
        } else {
            changed.put(id, bias);
        }
        return with(copy -> copy.biases = changed);
    }

    /** Never give these ids. */
    public SamplerOptions ban(int... ids) {
        SamplerOptions changed = this;
        for (int id : ids) {
            changed = changed.logitBias(id, Double.NEGATIVE_INFINITY);
        }
        return changed;
    }

    private static double share(String name, double value) {
        if (!(value > 0 && value <= 1)) {
            throw new UsageException(name + " " + value + " must be a number above 0 and at most 1");
        }
        return value;
    }

    boolean cuts() {
        return topK != null || topP != null || minP != null;
    }

    boolean tilts() {
        return !biases.isEmpty();
    }

    /** What is added to the logit of an id. */
    double bias(int id) {
        return biases.getOrDefault(id, 0.0);
    }

    /** Padding, or the first id that is not banned. */
    int filler(int pad) {
        int found = pad;
        for (int id = 0; bias(found) == Double.NEGATIVE_INFINITY; id++) {
            found = id;
        }
        return found;
    }

    /** Names of what no step can do without its draws and likeliest ids. */
    private List<String> needsCandidates(Manifest.SamplerConfig exported) {
        List<String> names = new ArrayList<>();
        add(names, "topK", topK);
        add(names, "topP", topP);
        add(names, "minP", minP);
        add(names, "logitBias", tilts() ? biases : null);
        add(names, "entropyBound", entropyBound != null && entropyBound > exported.entropyBound ? entropyBound : null);
        return names;
    }

    private static void add(List<String> names, String name, @Nullable Object value) {
        if (value != null) {
            names.add(name);
        }
    }

    /** Names of what is not as it was exported. */
    private List<String> given() {
        List<String> names = new ArrayList<>();
        add(names, "temperature", first);
        add(names, "maxSteps", maxSteps);
        add(names, "confidence", confidence);
        add(names, "stability", stability);
        add(names, "entropyBound", entropyBound);
        add(names, "topK", topK);
        add(names, "topP", topP);
        add(names, "minP", minP);
        add(names, "logitBias", tilts() ? biases : null);
        return names;
    }

    /** Throws UsageException where the loop or the bundle cannot do it. */
    void check(Bundle bundle, String engine, GenerateOptions options) {
        Manifest manifest = bundle.manifest();
        Loop loop = options.loop;
        String graph = options.compute.graphs(loop)[0];
        if (maxSteps != null && maxSteps > manifest.sampler.steps) {
            throw new UsageException("maxSteps " + maxSteps + " must be at most the exported " + manifest.sampler.steps
                    + "; export with more --steps");
        }
        if (loop == Loop.GRAPH) {
            checkFused(bundle, bundle.graph(engine, graph), options.logprobs);
            return;
        }
        if (tilts() && biases.lastKey() >= manifest.model.vocabSize) {
            throw new UsageException(
                    "logitBias: id " + biases.lastKey() + " is outside the vocabulary of " + manifest.model.vocabSize);
        }
        if (biases.size() == manifest.model.vocabSize
                && biases.values().stream().allMatch(each -> each == Double.NEGATIVE_INFINITY)) {
            throw new UsageException("logitBias bans every id; leave one");
        }
        List<String> names = needsCandidates(manifest.sampler);
        add(names, "logprobs", options.logprobs);
        int most = names.isEmpty() ? 0 : candidates(bundle.graph(engine, graph));
        if (!names.isEmpty() && most == 0) {
            throw new UsageException(bundle.folder() + ": was exported before " + String.join(", ", names)
                    + " could be had, and its graphs lack what they need; export it again");
        }
        if (topK != null && topK > most) {
            throw new UsageException(
                    "topK " + topK + " must be at most " + most + ", the likeliest ids that a step of this bundle gives");
        }
        if (options.logprobs != null && options.logprobs > most) {
            throw new UsageException("logprobs " + options.logprobs + " must be at most " + most
                    + ", the likeliest ids that a step of this bundle gives");
        }
        if (options.logprobs != null) {
            for (float each : temperatures(manifest.sampler)) {
                if (each == (float) GREEDY) {
                    throw new UsageException("logprobs are of the tempered distribution, which is certain at temperature 0; "
                            + "give a higher one");
                }
            }
        }
    }

    private void checkFused(Bundle bundle, Manifest.GraphSpec fused, @Nullable Integer logprobs) {
        List<String> names = given();
        List<String> cuts = new ArrayList<>(names);
        cuts.retainAll(Arrays.asList("topK", "topP", "minP", "logitBias"));
        add(cuts, "logprobs", logprobs);
        if (!cuts.isEmpty()) {
            throw new UsageException(
                    String.join(", ", cuts) + " do not work with loop graph, which returns no candidates; use loop host");
        }
        List<String> lacks = lacks(fused);
        if (!names.isEmpty() && !lacks.isEmpty()) {
            throw new UsageException(bundle.folder() + ": graph 'generate' was exported before it had inputs for "
                    + String.join(", ", names) + " (" + String.join(", ", lacks) + "); export it again, or use loop host");
        }
    }

    /** Inputs of the fused graph that an older bundle has not. */
    static List<String> lacks(Manifest.GraphSpec fused) {
        List<String> lacks = new ArrayList<>(
                Arrays.asList("temperatures", "bounds", "most_steps", "confidence", "stability"));
        for (Manifest.TensorSpec spec : fused.inputs) {
            lacks.remove(spec.name);
        }
        return lacks;
    }

    /** How many of the likeliest ids a step puts out; 0 where it does not. */
    static int candidates(Manifest.GraphSpec graph) {
        for (Manifest.TensorSpec spec : graph.outputs) {
            Object last = spec.shape.isEmpty() ? null : spec.shape.get(spec.shape.size() - 1);
            if (spec.name.equals("likeliest") && last instanceof Number) {
                return ((Number) last).intValue();
            }
        }
        return 0;
    }

    /** Of every step of one canvas, first step first. */
    float[] temperatures(Manifest.SamplerConfig exported) {
        int steps = maxSteps == null ? exported.steps : maxSteps;
        double a = first == null ? exported.tMax : first;
        double b = last == null ? exported.tMin : last;
        float[] found = new float[steps];
        for (int i = 0; i < steps; i++) {
            double exact = b + (a - b) * ((double) (steps - i) / steps);
            found[i] = (float) (first != null && exact < COLDEST ? GREEDY : exact);
        }
        return found;
    }

    double entropyBound(Manifest.SamplerConfig exported) {
        return entropyBound == null ? exported.entropyBound : entropyBound;
    }

    int stability(Manifest.SamplerConfig exported) {
        return stability == null ? exported.stabilityThreshold : stability;
    }

    double confidence(Manifest.SamplerConfig exported) {
        return confidence == null ? exported.confidenceThreshold : confidence;
    }
}
