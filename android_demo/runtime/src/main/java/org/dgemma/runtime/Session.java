package org.dgemma.runtime;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Engines;
import org.dgemma.runtime.engine.Memory;
import org.dgemma.runtime.structure.Cancelled;
import org.dgemma.tokenizer.Tokenizer;
import org.dgemma.tokenizer.TokenizerException;
import org.jspecify.annotations.Nullable;

/**
 * Generates text from a bundle: one engine, one prefix, one generation at a time.
 *
 * <p>The prefix (prompts and answers so far) stays between generations, and {@link GenerateOptions#continued} goes on
 * from it. After a generation it holds prompt, tokens, and the stop token if there was one; after a cancel or a failure
 * it is as it was before the canvas in work.
 *
 * <p>Threads: every method may be called from any thread. A second generation, {@link #rewind} or {@link #reset} while
 * one runs throws SessionBusyException, from its listener too; {@link #cancel} and {@link #close} are what one calls
 * meanwhile. From a terminal callback a new generation may be started.
 */
public final class Session implements AutoCloseable {
    private static final long IDLE_SECONDS = 10;
    private static final int MOST_SAMPLES = 1000;
    /** {@link Result#loop} of greedy decoding. */
    private static final String DECODE = "decode";

    private final Bundle bundle;
    private final Manifest manifest;
    private final Engine engine;
    private final Speech speech;
    private final Gate gate;
    private final ThreadPoolExecutor worker;
    /** Null once freed, so that a closed session that somebody still holds does not hold its caches. */
    private volatile @Nullable Generator generator;

    Session(Engine engine, @Nullable Tokenizer tokenizer) {
        this.bundle = engine.bundle();
        this.manifest = bundle.manifest();
        this.engine = engine;
        this.speech = new Speech(bundle, tokenizer);
        this.gate = new Gate(engine::interrupt, this::free);
        this.generator = new Generator(engine, gate::isCancelled);
        this.worker = new ThreadPoolExecutor(
                1, 1, IDLE_SECONDS, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), task -> {
                    Thread thread = new Thread(task, "dgemma-session");
                    thread.setDaemon(true);
                    return thread;
                });
        worker.allowCoreThreadTimeOut(true);
    }

    /**
     * Open a bundle: check every file, read the tokenizer, find the engine. Graphs are loaded on first use.
     *
     * @param bundle the bundle's folder
     * @throws BundleException the bundle cannot be trusted
     * @throws EngineException no engine can run it here, or it does not fit into memory
     * @throws TokenizerException its tokenizer cannot be read
     */
    public static Session load(File bundle, SessionOptions options) {
        return load(Bundle.open(bundle), options);
    }

    /** As {@link #load(File, SessionOptions)}, of a bundle that was opened, with its progress shown, before. */
    public static Session load(Bundle bundle, SessionOptions options) {
        Engine engine = Engines.open(bundle, options);
        try {
            if (options.checkMemory) {
                Memory.check(bundle.manifest(), engine.name(), bundle.folder());
            }
            return new Session(engine, Speech.tokenizer(bundle));
        } catch (Throwable error) {
            engine.close();
            throw error;
        }
    }

    public Bundle bundle() {
        return bundle;
    }

    /** onnx or executorch. */
    public String engine() {
        return engine.name();
    }

    /** What of a step runs where, and why no NPU is used that the bundle has contexts for. */
    public Placement placement() {
        return engine.placement();
    }

    /** Of the engine's library. */
    public String engineVersion() {
        return engine.version();
    }

    /** What went wrong without ending anything, such as a cache that could not be kept; one line each. */
    public List<String> warnings() {
        return Collections.unmodifiableList(engine.warnings());
    }

    /** Every token of the prefix, prompts and answers; SessionBusyException after close. */
    public int[] prefixIds() {
        gate.checkOpen();
        return open().prefix.ids();
    }

    /**
     * Denoise canvases until a stop token, the limit, the end of the context, or a cancel; blocking, on the calling
     * thread.
     *
     * @param prompt put through the chat template unless {@link GenerateOptions#raw}; null only with a
     *     {@link GenerateOptions#template}, which then answers nothing
     * @param steps told of every step, on the calling thread; what it throws ends the generation and is thrown here
     * @return also after a cancel, with {@link StopReason#CANCELLED}
     * @throws DgemmaException PromptTooLongException, UsageException, TokenizerException, EngineException,
     *     SessionBusyException
     */
    public Result generate(@Nullable String prompt, GenerateOptions options, @Nullable StepListener steps) {
        return exclusive(() -> run(asked(prompt, options), options, steps, null));
    }

    /** As above, of ids taken verbatim. */
    public Result generate(int[] promptIds, GenerateOptions options, @Nullable StepListener steps) {
        return exclusive(() -> run(asked(promptIds, options), options, steps, null));
    }

    /**
     * As above, of a whole conversation, up to the turn that the model answers. With {@link GenerateOptions#continued},
     * what the prefix holds of it is not encoded again.
     */
    public Result generate(List<Message> messages, GenerateOptions options, @Nullable StepListener steps) {
        return exclusive(() -> run(asked(messages, options), options, steps, null));
    }

    /**
     * {@link #generate} several answers to one prompt, which is encoded once: with the seed of the options, the next one, and so
     * on. Afterwards the prefix ends with the prompt. A cancel ends it with the answer in work.
     *
     * @param n 1 to 1000
     * @throws DgemmaException UsageException also for {@link Decoder#AUTOREGRESSIVE} and {@link ComputePolicy#speculate}, whose
     *     answers are all the same; otherwise as generate
     */
    public Samples sample(@Nullable String prompt, GenerateOptions options, int n) {
        return exclusive(() -> several(asked(prompt, options), options, n));
    }

    /** As above, of ids taken verbatim. */
    public Samples sample(int[] promptIds, GenerateOptions options, int n) {
        return exclusive(() -> several(asked(promptIds, options), options, n));
    }

    /** As above, of a whole conversation. */
    public Samples sample(List<Message> messages, GenerateOptions options, int n) {
        return exclusive(() -> several(asked(messages, options), options, n));
    }

    /**
     * Generate on the session's own thread. Throws at once when the session is busy or closed; otherwise calls exactly
     * one terminal callback, last. An exception that a terminal callback throws reaches the thread's uncaught-exception
     * handler; the session stays usable.
     */
    public void start(@Nullable String prompt, GenerateOptions options, GenerationListener listener) {
        submit(asked(prompt, options), options, listener);
    }

    /** As above, of ids taken verbatim; they are copied. */
    public void start(int[] promptIds, GenerateOptions options, GenerationListener listener) {
        submit(asked(promptIds.clone(), options), options, listener);
    }

    /** As above, of a whole conversation; the list is copied. */
    public void start(List<Message> messages, GenerateOptions options, GenerationListener listener) {
        submit(asked(new ArrayList<>(messages), options), options, listener);
    }

    /**
     * Autoregressive baseline, {@link #generate} with {@link Decoder#AUTOREGRESSIVE}: the same weights, one greedy token per call
     * of {@code decode}.
     */
    public Result decodeGreedy(String prompt, GenerateOptions options) {
        return generate(prompt, options.decoder(Decoder.AUTOREGRESSIVE), null);
    }

    /** As above, of ids taken verbatim. */
    public Result decodeGreedy(int[] promptIds, GenerateOptions options) {
        return generate(promptIds, options.decoder(Decoder.AUTOREGRESSIVE), null);
    }

    /** End the running generation, the native call in work included where the engine can; from any thread. */
    public void cancel() {
        gate.cancel();
    }

    /** Forget the prefix. */
    public void reset() {
        rewind(0);
    }

    /** Cut the prefix back to its first {@code length} tokens; UsageException when it has fewer. */
    public void rewind(int length) {
        exclusive(() -> {
            Prefix prefix = open().prefix;
            if (length < 0 || length > prefix.size()) {
                throw new UsageException(
                        "cannot rewind to " + length + ": the prefix has " + prefix.size() + " tokens");
            }
            prefix.truncate(length);
            return null;
        });
    }

    /**
     * Cancels a generation that runs, waits for it and for its terminal callback, and frees everything. From a callback
     * it returns at once, and everything is freed when the generation has ended. Idempotent.
     */
    @Override
    public void close() {
        gate.close();
    }

    private void free() {
        generator = null;
        worker.shutdown();
        engine.close();
    }

    private interface Job<T> {
        T run();
    }

    /** A prompt. */
    private static final class Asked {
        /** What the prefix becomes by it. */
        final UnaryOperator<int[]> prefix;
        /** Null where it is no whole conversation. */
        final @Nullable List<Message> messages;

        Asked(UnaryOperator<int[]> prefix, @Nullable List<Message> messages) {
            this.prefix = prefix;
            this.messages = messages;
        }
    }

    private Asked asked(@Nullable String prompt, GenerateOptions options) {
        return new Asked(before -> speech.prefix(before, prompt, options), null);
    }

    private Asked asked(int[] promptIds, GenerateOptions options) {
        return new Asked(before -> speech.prefix(before, promptIds, options), null);
    }

    private Asked asked(List<Message> messages, GenerateOptions options) {
        return new Asked(before -> speech.prefix(messages, options), messages);
    }

    private <T> T exclusive(Job<T> job) {
        gate.acquire(true);
        try {
            return job.run();
        } finally {
            gate.release(false);
        }
    }

    private void submit(Asked asked, GenerateOptions options, GenerationListener listener) {
        gate.acquire(false);
        try {
            worker.execute(() -> runAndTell(() -> run(asked, options, listener::onStep, listener), listener));
        } catch (Throwable error) { // no memory for a thread
            gate.release(false);
            throw error;
        }
    }

    private void runAndTell(Job<Result> job, GenerationListener listener) {
        gate.moveHere();
        Result result = null;
        DgemmaException failure = null;
        try {
            result = job.run();
        } catch (Throwable error) {
            failure = Failure.of(error);
        }
        gate.release(true);
        try {
            if (result == null) {
                listener.onFailed(failure);
            } else if (result.stopReason == StopReason.CANCELLED) {
                listener.onCancelled(result);
            } else {
                listener.onDone(result);
            }
        } finally {
            gate.told();
        }
    }

    private Result run(
            Asked asked, GenerateOptions given, @Nullable StepListener steps, @Nullable GenerationListener texts) {
        Generator generator = open();
        Progress run = generator.progress(given.maxNewTokens);
        GenerateOptions options = speech.withBans(given);
        int[] ids = read(generator, asked, options);
        options = speech.withNegative(options, asked.messages);
        return answer(run, ids, kept(generator, ids, options), options, steps, texts);
    }

    /** What the prefix becomes by a prompt, once it is known that the bundle can do what the options say. */
    private int[] read(Generator generator, Asked asked, GenerateOptions options) {
        OptionCheck.check(engine, options);
        return asked.prefix.apply(options.continued ? generator.prefix.ids() : new int[0]);
    }

    /** How many of the ids the prefix holds already; the last is read again. */
    private static int kept(Generator generator, int[] ids, GenerateOptions options) {
        int shared = options.continued ? Prefix.shared(generator.prefix.ids(), ids) : 0;
        return Math.max(0, Math.min(shared, ids.length - 1));
    }

    /** A generation behind the first {@code kept} ids of the prefix and the others of {@code ids}. */
    private Result answer(
            Progress run, int[] ids, int kept, GenerateOptions options, @Nullable StepListener steps,
            @Nullable GenerationListener texts) {
        Generator generator = open();
        Answering answering = new Answering(speech, options, ids, manifest.sampler.entropyBound, steps, texts);
        run.stopStrings = answering.stops;
        try {
            run.structured = answering.language(options, gate::isCancelled);
        } catch (Cancelled error) { // before the prefix has changed
            return answering.result(run, engine.placement().label, options.loop.word(), generator.timings(run));
        }
        String loop = generate(run, ids, kept, options, answering);
        return answering.result(run, engine.placement().label, loop, generator.timings(run));
    }

    /** Generates, and again token by token where that is the fallback of an empty answer; returns {@link Result#loop}. */
    private String generate(Progress run, int[] ids, int kept, GenerateOptions options, Answering answering) {
        Generator generator = open();
        if (options.decoder == Decoder.AUTOREGRESSIVE) {
            generator.decode(run, ids, kept, answering);
            return DECODE;
        }
        generator.generate(run, ids, kept, options, answering.given, answering);
        run.trajectory = answering.trajectory(ids, run.tokens);
        if (!options.fallback || !generator.isEmpty(run)) {
            return options.loop.word();
        }
        generator.fallBack(run, ids, kept, answering);
        return DECODE;
    }

    private Samples several(Asked asked, GenerateOptions given, int n) {
        if (n < 1 || n > MOST_SAMPLES) {
            throw new UsageException("n " + n + " must be between 1 and " + MOST_SAMPLES);
        }
        Samples.check(given);
        Generator generator = open();
        GenerateOptions options = speech.withBans(given);
        int[] ids = read(generator, asked, options);
        options = speech.withNegative(options, asked.messages);
        int kept = kept(generator, ids, options);
        List<Result> results = new ArrayList<>();
        StopReason last = StopReason.STOP;
        while (results.size() < n && last != StopReason.CANCELLED) {
            Progress run = generator.progress(options.maxNewTokens);
            GenerateOptions seeded = options.seed(options.seed + results.size());
            results.add(answer(run, ids, results.isEmpty() ? kept : ids.length, seeded, null, null));
            generator.prefix.truncate(Math.min(ids.length, generator.prefix.size())); // a cancelled one may not have begun
            last = run.reason;
        }
        return new Samples(results);
    }

    private Generator open() {
        Generator found = generator;
        if (found == null) {
            throw new SessionBusyException("the session is closed; load it again");
        }
        return found;
    }
}
