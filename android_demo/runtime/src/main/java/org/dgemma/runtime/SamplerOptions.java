package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * How one generation samples: what differs from the sampler that the bundle was exported with. Immutable; start from
 * {@link #EXPORTED} and change what you need.
 */
public final class SamplerOptions {
    /** As the bundle was exported. */
    public static final SamplerOptions EXPORTED = new SamplerOptions(null, null, null, null, null);

    /** The temperature that stands for 0: the likeliest id outweighs any other, and no logit over it overflows. */
    static final double GREEDY = 1e-20;

    /** Below it is 0: heads multiply the logits that a draw falls among once more, and a last bit would decide. */
    private static final double COLDEST = 0.01;

    private static final double HOTTEST = 100;

    private final @Nullable Double first;
    private final @Nullable Double last;
    private final @Nullable Integer maxSteps;
    private final @Nullable Double confidence;
    private final @Nullable Integer stability;

    private SamplerOptions(
            @Nullable Double first,
            @Nullable Double last,
            @Nullable Integer maxSteps,
            @Nullable Double confidence,
            @Nullable Integer stability) {
        this.first = first;
        this.last = last;
        this.maxSteps = maxSteps;
        this.confidence = confidence;
        this.stability = stability;
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
        return new SamplerOptions(a, b, maxSteps, confidence, stability);
    }

    /** At most so many denoising steps for one canvas, no more than the bundle was exported with. */
    public SamplerOptions maxSteps(int value) {
        if (value < 1) {
            throw new UsageException("maxSteps " + value + " must be 1 or more");
        }
        return new SamplerOptions(first, last, value, confidence, stability);
    }

    /** Nats that the mean entropy must be below for a stop. */
    public SamplerOptions confidence(double nats) {
        if (!(nats > 0 && nats < Double.POSITIVE_INFINITY)) {
            throw new UsageException("confidence " + nats + " must be a positive number of nats");
        }
        return new SamplerOptions(first, last, maxSteps, nats, stability);
    }

    /** Steps for which the likeliest ids must not change before a stop. */
    public SamplerOptions stability(int steps) {
        if (steps < 0) {
            throw new UsageException("stability " + steps + " must be 0 or more");
        }
        return new SamplerOptions(first, last, maxSteps, confidence, steps);
    }

    /** Names of what is not as it was exported. */
    private List<String> given() {
        List<String> names = new ArrayList<>();
        if (first != null) {
            names.add("temperature");
        }
        if (maxSteps != null) {
            names.add("maxSteps");
        }
        if (confidence != null) {
            names.add("confidence");
        }
        if (stability != null) {
            names.add("stability");
        }
        return names;
    }

    /** Throws UsageException where the loop or the bundle cannot do it. */
    void check(Manifest manifest, Loop loop) {
        if (maxSteps != null && maxSteps > manifest.sampler.steps) {
            throw new UsageException("maxSteps " + maxSteps + " must be at most the exported " + manifest.sampler.steps
                    + "; export with more --steps");
        }
        if (loop != Loop.HOST && !given().isEmpty()) {
            throw new UsageException(String.join(", ", given()) + " need loop host: the fused graph has its sampler built in");
        }
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

    int stability(Manifest.SamplerConfig exported) {
        return stability == null ? exported.stabilityThreshold : stability;
    }

    double confidence(Manifest.SamplerConfig exported) {
        return confidence == null ? exported.confidenceThreshold : confidence;
    }
}
