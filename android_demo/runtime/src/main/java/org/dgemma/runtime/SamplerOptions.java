package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Consumer;
import org.dgemma.format.Json;
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

    /** Over the lowest temperature it is still a number. */
    private static final double LARGEST_BIAS = 1e100;

    /** Both ends. */
    private double @Nullable [] temperature;
    /** As above. */
    private double @Nullable [] entropyBound;
    private @Nullable Integer maxSteps;
    private @Nullable Schedule schedule;
    private @Nullable Double confidence;
    private @Nullable Integer stability;
    @Nullable Integer topK;
    @Nullable Double topP;
    @Nullable Double minP;
    private SortedMap<Integer, Double> biases = new TreeMap<>();

    private SamplerOptions() {}

    private SamplerOptions with(Consumer<SamplerOptions> change) {
        SamplerOptions copy = new SamplerOptions();
        copy.temperature = temperature;
        copy.entropyBound = entropyBound;
        copy.maxSteps = maxSteps;
        copy.schedule = schedule;
        copy.confidence = confidence;
        copy.stability = stability;
        copy.topK = topK;
        copy.topP = topP;
        copy.minP = minP;
        copy.biases = biases;
        change.accept(copy);
        copy.checkTable();
        return copy;
    }

    /** Throws UsageException where a table says what another option says as well. */
    private void checkTable() {
        if (schedule == null || !schedule.isTable()) {
            return;
        }
        String twice = schedule.temperature.length > 0 && temperature != null ? "temperature"
                : schedule.entropyBound.length > 0 && entropyBound != null ? "entropyBound" : null;
        if (twice != null) {
            throw new UsageException(twice + " is also in the table of schedule; leave one out");
        }
        if (maxSteps != null && maxSteps != schedule.steps()) {
            throw new UsageException("maxSteps " + maxSteps + " differs from schedule, whose table has "
                    + Plural.counted(schedule.steps(), "step") + "; leave one out");
        }
    }

    /** One temperature for all steps; 0, and what is below 0.01, takes the likeliest id of every position. */
    public SamplerOptions temperature(double value) {
        return temperature(value, value);
    }

    /**
     * Temperature {@code a} of the first step, and {@code b}, what it tends to after the last: b + (a − b) · s(r / T) with r of
     * T steps remaining, where s(x) = x unless a {@link #schedule} says otherwise.
     *
     * @throws UsageException one of them is not from 0 to 100, or the schedule has temperatures of its own
     */
    public SamplerOptions temperature(double a, double b) {
        for (double end : new double[] {a, b}) {
            if (!Schedule.isTemperature(end)) {
                throw new UsageException(
                        "temperature " + shown(a, b) + " must be A or A:B, numbers from 0 to 100, such as 0.8:0.4");
            }
        }
        return with(copy -> copy.temperature = new double[] {a, b});
    }

    /**
     * How temperature and entropy bound go from step to step. A table has as many steps as a canvas has at most, no more than
     * the bundle was exported with.
     *
     * @throws UsageException what a table has is given as an option as well
     */
    public SamplerOptions schedule(Schedule value) {
        if (value == null) {
            throw new UsageException("schedule null must be linear or cosine, or a table of temperature and entropyBound");
        }
        return with(copy -> copy.schedule = value);
    }

    /** At most so many denoising steps for one canvas, no more than the bundle was exported with. */
    public SamplerOptions maxSteps(int value) {
        if (value < 1) {
            throw new UsageException("maxSteps " + value + " must be an integer, 1 or more");
        }
        return with(copy -> copy.maxSteps = value);
    }

    /** Nats that the mean entropy must be below for a stop. */
    public SamplerOptions confidence(double nats) {
        if (!(nats > 0 && nats < Double.POSITIVE_INFINITY)) {
            throw new UsageException("confidence " + Json.repr(nats) + " must be a positive number of nats");
        }
        return with(copy -> copy.confidence = nats);
    }

    /** Steps for which the likeliest ids must not change before a stop. */
    public SamplerOptions stability(int steps) {
        if (steps < 0) {
            throw new UsageException("stability " + steps + " must be an integer, 0 or more");
        }
        return with(copy -> copy.stability = steps);
    }

    /** Nats that positions may have ahead of them and still be accepted; above the bundle's, its steps must put out draws. */
    public SamplerOptions entropyBound(double nats) {
        return entropyBound(nats, nats);
    }

    /**
     * The bound of the first step, and what it tends to after the last, as for the temperature.
     *
     * @throws UsageException one of them is no positive number of nats, or the schedule has bounds of its own
     */
    public SamplerOptions entropyBound(double a, double b) {
        for (double end : new double[] {a, b}) {
            if (!Schedule.isPositive(end)) {
                throw new UsageException("entropyBound " + shown(a, b) + " must be a positive number of nats, or A:B");
            }
        }
        return with(copy -> copy.entropyBound = new double[] {a, b});
    }

    /** Draw only among so many of the likeliest ids, at most as many as a step of the bundle puts out. */
    public SamplerOptions topK(int count) {
        if (count < 1) {
            throw new UsageException("topK " + count + " must be an integer, 1 or more");
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
            throw new UsageException("logitBias: id " + id + " must be an integer, 0 or more");
        }
        if (bias != Double.NEGATIVE_INFINITY && !(Math.abs(bias) <= LARGEST_BIAS)) {
            throw new UsageException(
                    "logitBias of id " + id + ": " + Json.repr(bias) + " must be a number from -1e+100 to 1e+100, or -inf");
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

    /** Both ends as Python writes them. */
    private static String shown(double a, double b) {
        return Double.compare(a, b) == 0 ? Json.repr(a) : "(" + Json.repr(a) + ", " + Json.repr(b) + ")";
    }

    static double share(String name, double value) {
        if (!(value > 0 && value <= 1)) {
            throw new UsageException(name + " " + Json.repr(value) + " must be a number above 0 and at most 1");
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

    /** Ids and what is added to their logits, in order of ids. */
    SortedMap<Integer, Double> biases() {
        return biases;
    }

    /** Names of what is not as it was exported. */
    List<String> given() {
        List<String> names = new ArrayList<>();
        add(names, "temperature", temperature);
        add(names, "maxSteps", maxSteps);
        add(names, "entropyBound", entropyBound);
        add(names, "schedule", schedule);
        add(names, "confidence", confidence);
        add(names, "stability", stability);
        names.addAll(ofCandidates());
        return names;
    }

    /** Names of what cuts or tilts the draw. */
    private List<String> ofCandidates() {
        List<String> names = new ArrayList<>();
        add(names, "topK", topK);
        add(names, "topP", topP);
        add(names, "minP", minP);
        add(names, "logitBias", tilts() ? biases : null);
        return names;
    }

    private static void add(List<String> names, String name, @Nullable Object value) {
        if (value != null) {
            names.add(name);
        }
    }

    /** Names of what no step can do without its draws and likeliest ids. */
    List<String> needsCandidates(Manifest.SamplerConfig exported) {
        List<String> names = ofCandidates();
        if (Arrays.stream(bounds(exported)).max().getAsDouble() > exported.entropyBound) {
            names.add(entropyBound != null ? "entropyBound" : "schedule");
        }
        return names;
    }

    /** T. Throws UsageException when it is more than was exported. */
    int steps(Manifest.SamplerConfig exported) {
        boolean table = schedule != null && schedule.isTable();
        int steps = table ? schedule.steps() : maxSteps == null ? exported.steps : maxSteps;
        if (steps > exported.steps) {
            throw new UsageException((table ? "schedule has " + steps + " steps and" : "maxSteps " + steps)
                    + " must be at most the exported " + exported.steps + "; export with more steps");
        }
        return steps;
    }

    /** Of every step of one canvas, first step first. Throws UsageException. */
    float[] temperatures(Manifest.SamplerConfig exported) {
        boolean own = temperature != null || schedule != null && schedule != Schedule.LINEAR;
        double[] table = schedule == null ? null : schedule.temperature;
        double[] exact = ofSteps(table, temperature, exported.tMax, exported.tMin, exported);
        float[] found = new float[exact.length];
        for (int i = 0; i < found.length; i++) {
            found[i] = (float) (own && exact[i] < COLDEST ? GREEDY : exact[i]);
        }
        return found;
    }

    /** The entropy bound, in nats, of every step of one canvas, first step first. Throws UsageException. */
    double[] bounds(Manifest.SamplerConfig exported) {
        double[] table = schedule == null ? null : schedule.entropyBound;
        return ofSteps(table, entropyBound, exported.entropyBound, exported.entropyBound, exported);
    }

    private double[] ofSteps(
            double @Nullable [] table, double @Nullable [] own, double first, double last, Manifest.SamplerConfig exported) {
        int steps = steps(exported);
        if (table != null && table.length > 0) {
            return table;
        }
        Schedule shape = schedule == null ? Schedule.LINEAR : schedule;
        return own == null ? shape.between(first, last, steps) : shape.between(own[0], own[1], steps);
    }

    int stability(Manifest.SamplerConfig exported) {
        return stability == null ? exported.stabilityThreshold : stability;
    }

    double confidence(Manifest.SamplerConfig exported) {
        return confidence == null ? exported.confidenceThreshold : confidence;
    }
}
