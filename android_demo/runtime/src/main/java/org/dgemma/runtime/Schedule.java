package org.dgemma.runtime;

import java.util.Arrays;

/**
 * How temperature and entropy bound go from step to step: a shape between two ends, or a table of values. Immutable.
 *
 * <p>With r of T steps remaining, a value that goes from a to b is b + (a − b) · s(r / T), s being the shape.
 */
public final class Schedule {
    /** s(x) = x, the default. */
    public static final Schedule LINEAR = new Schedule(new double[0], new double[0]);

    /** s(x) = (1 − cos πx) / 2, which stays near both ends for longer. */
    public static final Schedule COSINE = new Schedule(new double[0], new double[0]);

    /** The most steps that a sampler may have. */
    static final int MOST_STEPS = 4096;

    private static final double HOTTEST = 100;

    /** Of every step, first step first; empty where it goes from end to end. */
    final double[] temperature;
    /** Nats of every step, as above. */
    final double[] entropyBound;

    private Schedule(double[] temperature, double[] entropyBound) {
        this.temperature = temperature;
        this.entropyBound = entropyBound;
    }

    /**
     * A table: values of every step, first step first, as many as there are steps; they are copied.
     *
     * @param temperature from 0 to 100 each; empty: as it would be without the table
     * @param entropyBound nats, above 0 each; empty: as above
     * @throws UsageException a value is out of its range, both are empty, or their lengths differ
     */
    public static Schedule table(double[] temperature, double[] entropyBound) {
        if (!Arrays.stream(temperature).allMatch(Schedule::isTemperature)) {
            throw new UsageException("schedule: temperature must be a list of numbers from 0 to 100");
        }
        if (!Arrays.stream(entropyBound).allMatch(Schedule::isPositive)) {
            throw new UsageException("schedule: entropyBound must be a list of positive numbers of nats");
        }
        if (temperature.length == 0 && entropyBound.length == 0) {
            throw new UsageException("schedule has no values; give temperature, entropyBound or both");
        }
        if (temperature.length > 0 && entropyBound.length > 0 && temperature.length != entropyBound.length) {
            throw new UsageException("schedule has lists of different lengths");
        }
        Schedule made = new Schedule(temperature.clone(), entropyBound.clone());
        if (made.steps() > MOST_STEPS) {
            throw new UsageException("schedule has " + made.steps() + " steps; at most " + MOST_STEPS + " are possible");
        }
        return made;
    }

    /** T of a table; 0 of a shape. */
    int steps() {
        return Math.max(temperature.length, entropyBound.length);
    }

    boolean isTable() {
        return steps() > 0;
    }

    /** Of every step, first step first, what goes from {@code first} to {@code last}; by a table, linearly. */
    double[] between(double first, double last, int steps) {
        double[] found = new double[steps];
        for (int i = 0; i < steps; i++) {
            double left = (double) (steps - i) / steps;
            found[i] = last + (first - last) * (this == COSINE ? (1 - Math.cos(Math.PI * left)) / 2 : left);
        }
        return found;
    }

    static boolean isTemperature(double value) {
        return value >= 0 && value <= HOTTEST;
    }

    static boolean isPositive(double value) {
        return value > 0 && value < Double.POSITIVE_INFINITY;
    }
}
