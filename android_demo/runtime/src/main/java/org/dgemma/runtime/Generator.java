package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;
import org.dgemma.runtime.structure.StructuredAnswer;
import org.jspecify.annotations.Nullable;

/**
 * Generations over one engine and one prefix, in ids: canvases until a stop token, the limit, the end of the context or
 * a cancel. It knows nothing of text or threads.
 */
final class Generator {
    /** Told of every step and of every canvas that was committed; what it throws ends the generation. */
    interface Watcher {
        /** @param committed tokens of the canvases before this one */
        void step(int canvas, DenoisingStep step, IntList committed);

        void committed(IntList tokens);
    }

    final Prefix prefix;
    private final Engine engine;
    private final Manifest manifest;
    private final BooleanSupplier cancelled;
    private final Map<String, CanvasLoop> loops = new HashMap<>();
    private @Nullable Guide guide;

    Generator(Engine engine, BooleanSupplier cancelled) {
        this.engine = engine;
        this.cancelled = cancelled;
        manifest = engine.bundle().manifest();
        prefix = new Prefix(engine);
        engine.stopWhen(cancelled);
    }

    /** Of a generation that begins now. */
    Progress progress(int most) {
        return new Progress(most, manifest.model.eosTokenIds, System.nanoTime(), engine.seconds());
    }

    /**
     * Denoises canvases behind the first {@code kept} ids of the prefix and the other ids of {@code ids}, until a stop token,
     * the limit, the end of the context, or a cancel.
     *
     * @param given what is known of the first canvases; a template's are the only ones
     */
    void generate(Progress run, int[] ids, int kept, GenerateOptions options, List<Given> given, Watcher watcher) {
        int room = options.template == null ? manifest.canvasLength : manifest.canvasLength * given.size();
        checkRoom(ids, kept, room);
        if (run.structured != null) {
            run.structured.check(run.most, manifest.canvasLength, manifest.context - ids.length);
        }
        Guide.check(options.guidance, manifest, room);
        begin(ids, kept, room);
        prepare(run, options.compute.graphs(options.loop));
        if (options.choiceProbabilities) {
            prepare(run, Loop.HOST.graph);
        }
        run.reason = denoise(run, options, given, guide(run, options.guidance), watcher);
        end(run);
    }

    /** One greedy token a call of {@code decode}, until as in {@link #generate}. */
    void decode(Progress run, int[] ids, int kept, Watcher watcher) {
        begin(ids, Math.min(kept, ids.length - 1), 1); // the last id is what the first call reads
        prepare(run, "decode");
        run.reason = decode(run, watcher);
        end(run);
    }

    /** Whether a generation came to an end of its own and says nothing but padding or a stop token. */
    boolean isEmpty(Progress run) {
        boolean cut = run.stopStrings != null && run.stopStrings.found != null;
        int pad = manifest.model.padTokenId;
        return run.reason != StopReason.CANCELLED && !cut && Arrays.stream(run.tokens.toArray()).allMatch(id -> id == pad);
    }

    /** {@link #decode} in place of the empty answer of {@link #generate}; what that took is counted as well. */
    void fallBack(Progress run, int[] ids, int kept, Watcher watcher) {
        String said = run.tokens.size() > 0 ? "only padding" : "a stop token at once";
        run.warnings.add("the canvas gave " + said + "; this answer is autoregressive");
        run.tokens.truncate(0);
        run.entropies = new float[0];
        run.logprobs = new ArrayList<>();
        decode(run, ids, kept, watcher);
    }

    /** Throws PromptTooLongException when prompt and {@code room} more do not fit into the context. */
    private void begin(int[] ids, int kept, int room) {
        checkRoom(ids, kept, room);
        prefix.truncate(kept);
        prefix.extend(Arrays.copyOfRange(ids, kept, ids.length), ids.length - kept);
    }

    private void checkRoom(int[] ids, int kept, int room) {
        int length = ids.length - kept;
        if ((long) ids.length + room > manifest.context) {
            String before = kept > 0 ? " after " + Plural.counted(kept, "token") + " of conversation" : "";
            throw new PromptTooLongException("a prompt of " + Plural.counted(length, "token") + before + " leaves no room for "
                    + room + " more in the context of " + manifest.context
                    + "; shorten the prompt, or export with a larger --context");
        }
    }

    /** What the steps of a generation are pushed away from; null where nothing is guided. */
    private @Nullable Guide guide(Progress run, @Nullable Guidance guidance) {
        if (guidance == null || guidance.scale == 1) {
            return null;
        }
        prepare(run, Guide.GUIDED);
        guide = guide == null ? new Guide(engine) : guide;
        guide.begin(guidance);
        return guide;
    }

    /** Loads the graphs that a generation calls beside {@code encode}. */
    private void prepare(Progress run, String... graphs) {
        long started = run.steps == 0 ? run.started : System.nanoTime();
        engine.prepare("encode");
        engine.prepare(graphs);
        run.loadS += since(started);
    }

    /** The padding in place of a stop token: a model without one ends its answer so. */
    private void end(Progress run) {
        int[] tokens = run.tokens.toArray();
        int end = tokens.length;
        while (run.reason != StopReason.STOP && end > 0 && tokens[end - 1] == manifest.model.padTokenId) {
            end--;
        }
        run.pads = tokens.length - end;
        prefix.truncate(prefix.size() - run.pads);
    }

    /** Canvas after canvas; with drafts, the first id that is known is what greedy decoding says next. */
    private StopReason denoise(
            Progress run, GenerateOptions options, List<Given> given, @Nullable Guide guide, Watcher watcher) {
        int n = manifest.canvasLength;
        Prefix other = guide == null ? null : guide.prefix();
        CanvasLoop loop = loop(options.compute.graphs(options.loop)[0]);
        CanvasLoop.Known known = new CanvasLoop.Known();
        known.guide = guide;
        for (int canvas = 0; fits(prefix, n) && (other == null || fits(other, n)); canvas++) {
            int before = prefix.size();
            int[] following = encode(run, prefix, 0, options.compute.speculate ? 1 : 0);
            if (following.length > 0) {
                known.first = following[0];
            }
            if (canvas == 0 && options.choiceProbabilities && run.structured != null) {
                weighChoices(run, run.structured, options.seed);
            }
            if (other != null) {
                encode(run, other, 0, 0);
            }
            known.structured = run.structured == null ? null
                    : run.structured.canvas(run.tokens.toArray(), run.most, n, manifest.context - prefix.size());
            known.given = canvas < given.size() ? given.get(canvas) : null;
            known.least = Math.max(0, options.minTokens - run.tokens.size());
            long started = System.nanoTime();
            int[] ids = canvas(loop, run, canvas, known, options, watcher);
            run.denoiseS += since(started);
            if (ids != null && known.first != CanvasLoop.NONE) {
                ids[0] = known.first;
                int[] said = agreed(ids, run);
                ids = said == null ? null : Arrays.copyOf(said, said.length - 1);
                known.first = said == null ? CanvasLoop.NONE : said[said.length - 1];
            }
            if (ids == null) {
                return StopReason.CANCELLED;
            }
            run.canvases++;
            boolean whole = known.given != null && known.given.isTemplate();
            StopReason reason = whole ? run.fill(ids, known.given.length, known.given.ends) : run.accept(ids);
            if (!options.compute.speculate) {
                run.addEntropies(loop.step.entropy, loop.step.width);
            }
            Candidates candidates = loop.candidates();
            if (options.logprobs != null && candidates != null) {
                run.logprobs.addAll(candidates.of(ids, ids.length, options.logprobs));
                run.logprobs = run.logprobs.subList(0, Math.min(run.logprobs.size(), run.tokens.size()));
            }
            keep(run, before, ids);
            watcher.committed(run.tokens);
            if (reason != null) {
                return reason;
            }
            if (other != null) {
                other.extend(ids, run.gained);
            }
        }
        return StopReason.CONTEXT;
    }

    /** Whether a canvas of {@code n} fits behind what a prefix has. */
    private boolean fits(Prefix prefix, int n) {
        return (long) prefix.size() + n <= manifest.context;
    }

    private CanvasLoop loop(String graph) {
        return loops.computeIfAbsent(graph, name -> CanvasLoop.of(name, engine, prefix));
    }

    /** Log-probabilities of the choices; a cancel is heard between two steps, and leaves none. */
    private void weighChoices(Progress run, StructuredAnswer structured, long seed) {
        long started = System.nanoTime();
        HostLoop loop = (HostLoop) loop(Loop.HOST.graph);
        try {
            run.choiceLogProbabilities = structured.choiceLogProbabilities(begun -> {
                if (cancelled.getAsBoolean()) {
                    return null;
                }
                run.positionForwards += manifest.canvasLength;
                return loop.behind(seed, begun);
            });
        } catch (Engine.InterruptedRun error) {
            checkCancelled(error);
        }
        run.denoiseS += since(started);
    }

    /** The prefix, which had {@code before} ids, gains what was accepted of these. */
    private void keep(Progress run, int before, int[] ids) {
        prefix.truncate(before + run.gained);
        int held = prefix.size() - before; // below 0 where a stop string begins before these
        prefix.extend(Arrays.copyOfRange(ids, Math.max(0, held), ids.length), run.gained - held);
    }

    /** The last argmax, as far as the canvas has grown; null when it was cancelled, and the canvas in work is dropped. */
    private int @Nullable [] canvas(
            CanvasLoop loop, Progress run, int canvas, CanvasLoop.Known known, GenerateOptions options, Watcher watcher) {
        if (cancelled.getAsBoolean()) {
            return null;
        }
        try {
            boolean done = loop.run(options, canvas, known, step -> {
                Numbers.check(engine, step.entropy, "step " + step.number + " of canvas " + (canvas + 1));
                run.steps++;
                run.positionForwards += step.rows;
                watcher.step(canvas, step, run.tokens);
                return !cancelled.getAsBoolean();
            });
            return done ? Arrays.copyOf(loop.step.argmax, loop.step.width) : null;
        } catch (Engine.InterruptedRun error) {
            checkCancelled(error);
            return null;
        } catch (EngineException error) {
            // An id that no sum of probabilities reaches comes of NaN; the next lookup in the same call refuses it.
            if (String.valueOf(error.getMessage()).contains("indices element out of data bounds")) {
                String which = loop.graph.equals(Loop.GRAPH.graph) ? "a step" : "step " + (loop.step.number + 1);
                throw Numbers.error(engine, which + " of canvas " + (canvas + 1), error);
            }
            throw error;
        }
    }

    /**
     * How far greedy decoding says what the draft says, encoded, and behind it what it says next; null when cancelled. The
     * draft's first id came from greedy decoding, so at least that stays. After a cancel or a failure the prefix is as before.
     */
    private int @Nullable [] agreed(int[] draft, Progress run) {
        int before = prefix.size();
        int length = Math.min(draft.length, Progress.visible(draft, manifest.model.eosTokenIds) + 1);
        int same = 0;
        try {
            prefix.extend(draft, length);
            int[] following = encode(run, prefix, 0, length);
            if (following.length < length) {
                return null;
            }
            for (same = 1; same < length && draft[same] == following[same - 1]; ) {
                same++;
            }
            int[] said = Arrays.copyOf(draft, same + 1);
            said[same] = following[same - 1];
            return said;
        } finally {
            prefix.truncate(before + same);
        }
    }

    /**
     * Encodes what is pending of a prefix, but for the last {@code keep} tokens, or until a cancel.
     *
     * @return what greedy decoding says after each of the last {@code check} of them; fewer when cancelled
     */
    private int[] encode(Progress run, Prefix prefix, int keep, int check) {
        long started = System.nanoTime();
        int before = prefix.encoded();
        int[] following = new int[0];
        try {
            following = prefix.encode(cancelled, keep, check);
        } catch (Engine.InterruptedRun error) {
            checkCancelled(error);
        }
        if (run.steps == 0) {
            run.prefillS += since(started);
            run.prefillPositionForwards += prefix.encoded() - before;
        } else {
            run.commitS += since(started);
            run.positionForwards += prefix.encoded() - before;
        }
        return following;
    }

    /** An interrupted call is a cancel only when somebody asked for one. */
    private void checkCancelled(Engine.InterruptedRun error) {
        if (!cancelled.getAsBoolean()) {
            throw error;
        }
    }

    /** Greedy decoding; tensors and maps are reused, so that nearly all time is spent in the engine. */
    private StopReason decode(Progress run, Watcher watcher) {
        encode(run, prefix, 1, 0);
        long started = System.nanoTime();
        try {
            return cancelled.getAsBoolean() ? StopReason.CANCELLED : decodeAll(run, watcher);
        } catch (Engine.InterruptedRun error) {
            checkCancelled(error);
            return StopReason.CANCELLED;
        } finally {
            run.denoiseS += since(started);
        }
    }

    private StopReason decodeAll(Progress run, Watcher watcher) {
        Prefix.Chunk chunk = prefix.chunk(Math.max(1, Buffers.inputDim(engine, "decode", "tokens", 1)[0]));
        Tensor start = Buffers.scalar(0);
        Tensor next = Buffers.zeros(DType.INT64, 1);
        Map<String, Tensor> feeds = new HashMap<>();
        Map<String, Tensor> outputs = new HashMap<>(chunk.outputs);
        Map<String, Tensor> views = null;
        int[] token = new int[1];
        boolean looked = false;
        for (int i = 0; i < chunk.size; i++) {
            chunk.tokens.data.putLong(8 * i, 0);
        }
        feeds.put("tokens", chunk.tokens);
        feeds.put("start", start);
        feeds.put("count", Buffers.scalar(1));
        outputs.put("next_token", next);
        while (!cancelled.getAsBoolean()) {
            Map<String, Tensor> now = prefix.views("decode", 0);
            if (now != views) {
                feeds.putAll(now);
                views = now;
            }
            chunk.tokens.data.putLong(0, prefix.last());
            start.data.putLong(0, prefix.encoded());
            engine.run("decode", feeds, outputs);
            prefix.store(chunk, 1);
            run.steps++;
            run.positionForwards++;
            token[0] = (int) next.data.getLong(0);
            if (token[0] == 0 && !looked) {
                look(run.steps);
                looked = true;
            }
            int before = prefix.size();
            StopReason reason = run.accept(token);
            keep(run, before, token);
            watcher.committed(run.tokens);
            if (reason != null) {
                return reason;
            }
            if (prefix.size() >= manifest.context) {
                return StopReason.CONTEXT;
            }
        }
        return StopReason.CANCELLED;
    }

    /** The graph gives ids alone, and 0 for NaN: the first 0 is worth one denoising step, which tells the two apart. */
    private void look(int token) {
        CanvasLoop.of(Loop.HOST.graph, engine, prefix).run(GenerateOptions.DEFAULT, 0, new CanvasLoop.Known(), step -> {
            Numbers.check(engine, step.entropy, "token " + token);
            return false;
        });
    }

    Timings timings(Progress run) {
        double engineS = engine.seconds() - run.nativeS;
        return new Timings(run.loadS, run.prefillS, run.denoiseS, run.commitS, since(run.started), engineS);
    }

    static double since(long started) {
        return (System.nanoTime() - started) * 1e-9;
    }
}
