package org.dgemma.runtime;

import java.io.File;
import org.jspecify.annotations.Nullable;

/** How a bundle is opened. Immutable; start from {@link #DEFAULT} and change what you need. */
public final class SessionOptions {
    /** The first engine of the bundle that is on the class path, its own choice of threads, no cache, target auto. */
    public static final SessionOptions DEFAULT =
            new SessionOptions(null, 0, null, true, null, Target.AUTO, Npu.UNKNOWN);

    /** onnx or executorch; null takes the first of them that is in the bundle and on the class path. */
    public final @Nullable String engine;
    /** Threads of the engine; 0 leaves it to the engine. */
    public final int threads;
    /** Where packed weights are kept, such as Android's {@code Context.getCacheDir()}; null keeps none. */
    public final @Nullable File cacheFolder;
    /** Refuse a bundle that cannot fit into the memory that is free. */
    public final boolean checkMemory;
    /** {@code libdgemma_experts.so}, which quantized mixtures of experts need on ONNX Runtime; null looks for it. */
    public final @Nullable File expertsLibrary;
    /** Where the graphs run; {@link Session#placement} says what came of it. */
    public final Target target;
    /** What the targets auto and qnn have to know of this machine. */
    public final Npu npu;

    private SessionOptions(
            @Nullable String engine, int threads, @Nullable File cacheFolder, boolean checkMemory,
            @Nullable File expertsLibrary, Target target, Npu npu) {
        this.engine = engine;
        this.threads = threads;
        this.cacheFolder = cacheFolder;
        this.checkMemory = checkMemory;
        this.expertsLibrary = expertsLibrary;
        this.target = target;
        this.npu = npu;
    }

    public SessionOptions engine(@Nullable String value) {
        return new SessionOptions(value, threads, cacheFolder, checkMemory, expertsLibrary, target, npu);
    }

    /** 1 to 1024, or 0 for the engine's choice. */
    public SessionOptions threads(int value) {
        if (value < 0 || value > 1024) {
            throw new UsageException("threads " + value + " must be between 1 and 1024, or 0 for the engine's choice");
        }
        return new SessionOptions(engine, value, cacheFolder, checkMemory, expertsLibrary, target, npu);
    }

    public SessionOptions cacheFolder(@Nullable File value) {
        return new SessionOptions(engine, threads, value, checkMemory, expertsLibrary, target, npu);
    }

    public SessionOptions checkMemory(boolean value) {
        return new SessionOptions(engine, threads, cacheFolder, value, expertsLibrary, target, npu);
    }

    /** The library's file; by default {@code -Ddgemma.experts.library}, else one of the app's native libraries. */
    public SessionOptions expertsLibrary(@Nullable File value) {
        return new SessionOptions(engine, threads, cacheFolder, checkMemory, value, target, npu);
    }

    public SessionOptions target(Target value) {
        return new SessionOptions(engine, threads, cacheFolder, checkMemory, expertsLibrary, value, npu);
    }

    public SessionOptions npu(Npu value) {
        return new SessionOptions(engine, threads, cacheFolder, checkMemory, expertsLibrary, target, value);
    }
}
