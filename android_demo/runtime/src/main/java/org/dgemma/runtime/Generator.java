package org.dgemma.runtime;

import java.util.EnumMap;
import java.util.HashMap;
import java.util.Map;
import java.util.function.BooleanSupplier;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;

/**
 * Generations over one engine and one prefix, in ids: canvases until a stop token, the limit, the end of the context or
 * a cancel. It knows nothing of text or threads.
 */
final class Generator {
    /** Told of every step and of every canvas that was committed; what it throws ends the generation. */
    interface Watcher {
        /** @param committed tokens of the canvases before this one */
        void step(int canvas, Step step, IntList committed);

        void committed(IntList tokens);
    }

    final Prefix prefix;
    private final Engine engine;
    private final Manifest manifest;
    private final BooleanSupplier cancelled;
    private final Map<Loop, CanvasLoop> loops = new EnumMap<>(Loop.class);

    Generator(Engine engine, BooleanSupplier cancelled) {
        this.engine = engine;
        this.cancelled = cancelled;
        manifest = engine.bundle().manifest();
        prefix = new Prefix(engine);
    }

    /** Throws PromptTooLongException when prompt and {@code room} more do not fit behind {@code kept} tokens. */
    void begin(int[] ids, int kept, int room) {
        if ((long) kept + ids.length + room > manifest.context) {
            String before = kept > 0 ? kept + " tokens so far and a" : "a";
            throw new PromptTooLongException(before + " prompt of " + ids.length + " tokens leave no room for " + room
                    + " more in the context of " + manifest.context
                    + "; shorten the prompt, or export with a larger --context");
        }
        prefix.truncate(kept);
        prefix.extend(ids, ids.length);
    }

    /** Loads the graphs that a loop calls. */
    void prepare(String graph) {
        engine.prepare("encode", graph);
    }

    StopReason denoise(Progress run, GenerateOptions options, Watcher watcher) {
        int n = manifest.canvasLength;
        int canvases = (run.most - 1) / n + 1;
        CanvasLoop loop = loops.get(options.loop);
        if (loop == null) {
            loop = CanvasLoop.of(engine, options.loop);
            loops.put(options.loop, loop);
        }
        for (int canvas = 0; canvas < canvases; canvas++) {
            if ((long) prefix.size() + n > manifest.context) {
                return StopReason.CONTEXT;
            }
            long started = System.nanoTime();
            encode(0);
            double encodeS = since(started);
            if (canvas == 0) {
                run.prefillS = encodeS;
            } else {
                run.commitS += encodeS;
            }
            started = System.nanoTime();
            boolean done = canvas(loop, run, canvas, options, watcher);
            run.denoiseS += since(started);
            if (!done) {
                return StopReason.CANCELLED;
            }
            run.canvases++;
            StopReason reason = run.accept(loop.step.argmax);
            prefix.extend(loop.step.argmax, run.gained);
            watcher.committed(run.tokens);
            if (reason != null) {
                return reason;
            }
        }
        return StopReason.LENGTH;
    }

    /** False when it was cancelled; the canvas in work is dropped. */
    private boolean canvas(CanvasLoop loop, Progress run, int canvas, GenerateOptions options, Watcher watcher) {
        if (cancelled.getAsBoolean()) {
            return false;
        }
        try {
            return loop.run(prefix, options.seed, canvas, options.adaptive, step -> {
                run.steps++;
                watcher.step(canvas, step, run.tokens);
                return !cancelled.getAsBoolean();
            });
        } catch (Engine.InterruptedRun error) {
            return stopped(error);
        }
    }

    /** Encodes what is pending, but for the last {@code keep} tokens, or until a cancel. */
    private void encode(int keep) {
        try {
            prefix.encode(cancelled, keep);
        } catch (Engine.InterruptedRun error) {
            stopped(error);
        }
    }

    /** An interrupted call is a cancel only when somebody asked for one. */
    private boolean stopped(Engine.InterruptedRun error) {
        if (!cancelled.getAsBoolean()) {
            throw error;
        }
        return false;
    }

    /** Greedy decoding; tensors and maps are reused, so that nearly all time is spent in the engine. */
    StopReason decode(Progress run) {
        long started = System.nanoTime();
        encode(1);
        run.prefillS = since(started);
        started = System.nanoTime();
        try {
            return cancelled.getAsBoolean() ? StopReason.CANCELLED : decodeAll(run);
        } catch (Engine.InterruptedRun error) {
            stopped(error);
            return StopReason.CANCELLED;
        } finally {
            run.denoiseS = since(started);
        }
    }

    private StopReason decodeAll(Progress run) {
        Prefix.Chunk chunk = prefix.chunk(Math.max(1, Buffers.inputDim(engine, "decode", "tokens", 1)[0]));
        Tensor start = Buffers.scalar(0);
        Tensor next = Buffers.zeros(DType.INT64, 1);
        Map<String, Tensor> feeds = new HashMap<>();
        Map<String, Tensor> outputs = new HashMap<>(chunk.outputs);
        Map<String, Tensor> views = null;
        int[] token = new int[1];
        for (int i = 0; i < chunk.size; i++) {
            chunk.tokens.data.putLong(8 * i, 0);
        }
        feeds.put("tokens", chunk.tokens);
        feeds.put("start", start);
        feeds.put("count", Buffers.scalar(1));
        outputs.put("next_token", next);
        while (!cancelled.getAsBoolean()) {
            Map<String, Tensor> now = prefix.views("decode");
            if (now != views) {
                feeds.putAll(now);
                views = now;
            }
            chunk.tokens.data.putLong(0, prefix.last());
            start.data.putLong(0, prefix.encoded());
            engine.run("decode", feeds, outputs);
            prefix.store(chunk, 1);
            run.steps++;
            token[0] = (int) next.data.getLong(0);
            StopReason reason = run.accept(token);
            prefix.extend(token, run.gained);
            if (reason != null) {
                return reason;
            }
            if (prefix.size() >= manifest.context) {
                return StopReason.CONTEXT;
            }
        }
        return StopReason.CANCELLED;
    }

    Timings timings(Progress run, long started, double nativeS) {
        double engineS = engine.seconds() - nativeS;
        return new Timings(run.loadS, run.prefillS, run.denoiseS, run.commitS, since(started), engineS);
    }

    static double since(long started) {
        return (System.nanoTime() - started) * 1e-9;
    }
}
