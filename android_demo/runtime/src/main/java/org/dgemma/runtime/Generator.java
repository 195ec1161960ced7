package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.function.BooleanSupplier;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;
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

    Generator(Engine engine, BooleanSupplier cancelled) {
        this.engine = engine;
        this.cancelled = cancelled;
        manifest = engine.bundle().manifest();
        prefix = new Prefix(engine);
        engine.stopWhen(cancelled);
    }

    /** Throws UsageException where the bundle cannot do what is asked for. */
    void check(GenerateOptions options) {
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
        checkBias(options);
        Manifest.GraphSpec graph = engine.bundle().graph(engine.name(), options.compute.graphs(options.loop)[0]);
        if (options.loop == Loop.GRAPH) {
            checkFused(graph, sampler.given());
        } else if (!names.isEmpty()) {
            checkCandidates(options, names, CanvasLoop.candidates(graph));
        }
    }

    private void checkBias(GenerateOptions options) {
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
    private void checkCandidates(GenerateOptions options, List<String> names, int most) {
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

    /** Of a generation that begins now. */
    Progress progress(int most) {
        return new Progress(most, manifest.model.eosTokenIds, System.nanoTime(), engine.seconds());
    }

    /**
     * Denoises canvases behind the first {@code kept} ids of the prefix and the other ids of {@code ids}, until a stop token,
     * the limit, the end of the context, or a cancel.
     *
     * @param given what is known of the first canvases; a template is the only one
     */
    void generate(Progress run, int[] ids, int kept, GenerateOptions options, List<Given> given, Watcher watcher) {
        begin(ids, kept, manifest.canvasLength);
        prepare(run, options.compute.graphs(options.loop));
        run.reason = denoise(run, options, given, watcher);
        end(run);
    }

    /** One greedy token a call of {@code decode}, until as in {@link #generate}. */
    void decode(Progress run, int[] ids) {
        begin(ids, 0, 1);
        prepare(run, "decode");
        run.reason = decode(run);
        end(run);
    }

    /** Throws PromptTooLongException when prompt and {@code room} more do not fit into the context. */
    private void begin(int[] ids, int kept, int room) {
        int length = ids.length - kept;
        if ((long) ids.length + room > manifest.context) {
            String before = kept > 0 ? " after " + tokens(kept) + " of conversation" : "";
            throw new PromptTooLongException("a prompt of " + tokens(length) + before + " leaves no room for " + room
                    + " more in the context of " + manifest.context
                    + "; shorten the prompt, or export with a larger --context");
        }
        prefix.truncate(kept);
        prefix.extend(Arrays.copyOfRange(ids, kept, ids.length), length);
    }

    private static String tokens(int count) {
        return count + (count == 1 ? " token" : " tokens");
    }

    /** Loads the graphs that a generation calls beside {@code encode}. */
    private void prepare(Progress run, String... graphs) {
        engine.prepare("encode");
        engine.prepare(graphs);
        run.loadS = since(run.started);
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
    private StopReason denoise(Progress run, GenerateOptions options, List<Given> given, Watcher watcher) {
        int n = manifest.canvasLength;
        CanvasLoop loop = loops.computeIfAbsent(
                options.compute.graphs(options.loop)[0], graph -> CanvasLoop.of(graph, engine, prefix));
        CanvasLoop.Known known = new CanvasLoop.Known();
        for (int canvas = 0; (long) prefix.size() + n <= manifest.context; canvas++) {
            int before = prefix.size();
            int[] following = encode(run, 0, options.compute.speculate ? 1 : 0);
            if (following.length > 0) {
                known.first = following[0];
            }
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
            StopReason reason = whole ? run.fill(ids, known.given.length) : run.accept(ids);
            Candidates candidates = loop.candidates();
            if (options.logprobs != null && candidates != null) {
                run.logprobs.addAll(candidates.of(ids, ids.length, options.logprobs));
                run.logprobs = run.logprobs.subList(0, Math.min(run.logprobs.size(), run.tokens.size()));
            }
            prefix.truncate(before + run.gained);
            int held = prefix.size() - before; // below 0 where a stop string begins in an earlier canvas
            prefix.extend(Arrays.copyOfRange(ids, Math.max(0, held), ids.length), run.gained - held);
            watcher.committed(run.tokens);
            if (reason != null) {
                return reason;
            }
        }
        return StopReason.CONTEXT;
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
            int[] following = encode(run, 0, length);
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
     * Encodes what is pending, but for the last {@code keep} tokens, or until a cancel.
     *
     * @return what greedy decoding says after each of the last {@code check} of them; fewer when cancelled
     */
    private int[] encode(Progress run, int keep, int check) {
        long started = System.nanoTime();
        int before = prefix.encoded();
        int[] following = new int[0];
        try {
            following = prefix.encode(cancelled, keep, check);
        } catch (Engine.InterruptedRun error) {
            checkCancelled(error);
        }
        if (run.steps == 0) {
            run.prefillS = since(started);
            run.prefillPositionForwards = prefix.encoded() - before;
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
    private StopReason decode(Progress run) {
        encode(run, 1, 0);
        long started = System.nanoTime();
        try {
            return cancelled.getAsBoolean() ? StopReason.CANCELLED : decodeAll(run);
        } catch (Engine.InterruptedRun error) {
            checkCancelled(error);
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
