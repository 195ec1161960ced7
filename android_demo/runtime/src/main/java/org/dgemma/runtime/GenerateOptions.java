package org.dgemma.runtime;

/** How one generation runs. Immutable; start from {@link #DEFAULT} and change what you need. */
public final class GenerateOptions {
    /** 256 new tokens, seed 0, adaptive stop, host loop over every position, chat template, an empty prefix. */
    public static final GenerateOptions DEFAULT =
            new GenerateOptions(256, 0L, true, Loop.HOST, ComputePolicy.ALL, false, false, false);

    public final int maxNewTokens;
    /** Of all noise; its 64 bits are read as unsigned. */
    public final long seed;
    /** End a canvas early, once it is stable and certain; otherwise always run all steps. */
    public final boolean adaptive;
    public final Loop loop;
    /** How much of a canvas is computed. */
    public final ComputePolicy compute;
    /** Take a text prompt as it is, without the bundle's chat template. */
    public final boolean raw;
    /** Go on from the prefix of earlier generations instead of an empty one. */
    public final boolean continued;
    /** Record every step in {@link Result#trajectory}. */
    public final boolean trace;

    private GenerateOptions(
            int maxNewTokens, long seed, boolean adaptive, Loop loop, ComputePolicy compute, boolean raw, boolean continued,
            boolean trace) {
        this.maxNewTokens = maxNewTokens;
        this.seed = seed;
        this.adaptive = adaptive;
        this.loop = loop;
        this.compute = compute;
        this.raw = raw;
        this.continued = continued;
        this.trace = trace;
    }

    /** At most so many new tokens, 1 or more; ceil(K / N) canvases are denoised at most. */
    public GenerateOptions maxNewTokens(int value) {
        if (value < 1) {
            throw new UsageException("maxNewTokens " + value + " must be 1 or more");
        }
        return new GenerateOptions(value, seed, adaptive, loop, compute, raw, continued, trace);
    }

    public GenerateOptions seed(long value) {
        return new GenerateOptions(maxNewTokens, value, adaptive, loop, compute, raw, continued, trace);
    }

    public GenerateOptions adaptive(boolean value) {
        return new GenerateOptions(maxNewTokens, seed, value, loop, compute, raw, continued, trace);
    }

    public GenerateOptions loop(Loop value) {
        if (value == null) {
            throw new UsageException("unknown loop null; choose one of host, graph");
        }
        return new GenerateOptions(maxNewTokens, seed, adaptive, value, compute, raw, continued, trace);
    }

    /** The tokens may differ from those of all of it, but for drafts, which are those of greedy decoding. */
    public GenerateOptions compute(ComputePolicy value) {
        if (value == null) {
            throw new UsageException("compute null must be ComputePolicy.ALL, or a policy that leaves something out");
        }
        return new GenerateOptions(maxNewTokens, seed, adaptive, loop, value, raw, continued, trace);
    }

    public GenerateOptions raw(boolean value) {
        return new GenerateOptions(maxNewTokens, seed, adaptive, loop, compute, value, continued, trace);
    }

    public GenerateOptions continued(boolean value) {
        return new GenerateOptions(maxNewTokens, seed, adaptive, loop, compute, raw, value, trace);
    }

    public GenerateOptions trace(boolean value) {
        return new GenerateOptions(maxNewTokens, seed, adaptive, loop, compute, raw, continued, value);
    }
}
