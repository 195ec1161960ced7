package org.dgemma.runtime;

import static org.dgemma.runtime.SessionTest.AGAIN;
import static org.dgemma.runtime.SessionTest.ANSWERED;
import static org.dgemma.runtime.SessionTest.LONG;
import static org.dgemma.runtime.SessionTest.N;
import static org.dgemma.runtime.SessionTest.PROMPT;
import static org.dgemma.runtime.SessionTest.SHORT;
import static org.dgemma.runtime.SessionTest.join;
import static org.dgemma.runtime.SessionTest.prompt;
import static org.dgemma.runtime.SessionTest.says;
import static org.dgemma.runtime.SessionTest.session;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;
import org.junit.Test;

/** Generations over the toy model that leave positions out, start narrow, recheck, and check drafts. */
public class SessionComputeTest {
    private static final ComputePolicy EARLY = ComputePolicy.ALL.earlyCommit(0.01);
    private static final ComputePolicy DRAFT = ComputePolicy.ALL.startWidthAuto().speculate(true);
    private static final ComputePolicy[] POLICIES = {
        EARLY, EARLY.startWidthAuto(), EARLY.startWidth(5).recheck(true), DRAFT, ComputePolicy.ALL.speculate(true),
        EARLY.speculate(true)
    };

    private static GenerateOptions options(ComputePolicy compute) {
        return GenerateOptions.DEFAULT.compute(compute);
    }

    /** Time enough to grow from one position and commit. */
    private static final int STEPS = 12;

    private static Bundle patient(Consumer<Map<String, Object>> change) throws Exception {
        return Bundle.open(ToyBundle.write(manifest -> {
            manifest.put("steps", STEPS);
            manifest.put("sampler", ToyBundle.object("steps", STEPS));
            change.accept(manifest);
        }));
    }

    private static ToyEngine of(int... answer) throws Exception {
        return new ToyEngine(patient(manifest -> {}), answer);
    }

    /** Its drafts are wrong at one position. */
    private static final class Wrong extends ToyEngine {
        private final int position;

        Wrong(int position) throws Exception {
            super(patient(manifest -> {}), LONG);
            this.position = position;
        }

        @Override
        void denoiseActive(Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
            super.denoiseActive(feeds, outputs);
            for (int i = 0; i < feeds.get("positions").size(1); i++) {
                if (id(feeds.get("positions"), i) == position) {
                    outputs.get("argmax").data.putLong(8 * i, 300);
                }
            }
        }
    }

    /** Positions that went through the stack, by what the engine saw: all but those of the first {@code prefill} calls. */
    private static int positionForwards(ToyEngine engine, int prefill) {
        int positionForwards = 0;
        for (List<Integer> rows : engine.active) {
            positionForwards += rows.size();
        }
        return positionForwards + engine.encoded.stream().skip(prefill).mapToInt(Integer::intValue).sum();
    }

    @Test
    public void positionsLeaveWhenTheyAreCommitted() throws Exception {
        ToyEngine engine = of(SHORT);
        Session session = session(engine);
        Result result = session.generate(PROMPT, options(EARLY), null);
        assertArrayEquals(SHORT, result.tokens);
        assertEquals(3, result.steps);
        List<List<Integer>> ran = Arrays.asList(
                Arrays.asList(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                Arrays.asList(1, 2, 4, 5, 7, 8, 10, 11, 13, 14),
                Arrays.asList(2, 5, 8)); // what follows the stop token at 10 has left
        assertEquals(ran, engine.active);
        assertEquals(16 + 10 + 3, result.positionForwards);
        assertEquals(PROMPT.length, result.prefillPositionForwards);
        assertEquals(2.9, result.positionForwardsPerToken(), 1e-12);
        assertArrayEquals(ANSWERED, session.prefixIds());
    }

    @Test
    public void positionForwardsOfAllPositionsAndOfGreedyDecoding() throws Exception {
        Session session = session(ToyEngine.of(LONG));
        for (Loop loop : Loop.values()) {
            Result result = session.generate(PROMPT, GenerateOptions.DEFAULT.loop(loop), null);
            assertEquals(12 * N + 2 * N, result.positionForwards); // two canvases are encoded, the last one waits
            assertEquals(PROMPT.length, result.prefillPositionForwards);
        }
        Result greedy = session.decodeGreedy(PROMPT, GenerateOptions.DEFAULT);
        assertEquals(LONG.length + 1, greedy.positionForwards);
        assertEquals(PROMPT.length - 1, greedy.prefillPositionForwards);
        Result none = session.generate(PROMPT, GenerateOptions.DEFAULT, event -> session.cancel());
        assertEquals(N, none.positionForwards);
        assertNull(none.positionForwardsPerToken());
    }

    @Test
    public void everyWayGivesTheAnswerAndCountsWhatRan() throws Exception {
        for (ComputePolicy compute : POLICIES) {
            for (int[] answer : new int[][] {SHORT, LONG}) {
                ToyEngine engine = of(answer);
                Session session = session(engine);
                for (int length : new int[] {PROMPT.length, 2 * ToyBundle.CHUNK + 12}) { // one chunk, three
                    engine.active.clear();
                    engine.encoded.clear();
                    Result result = session.generate(prompt(length), options(compute), null);
                    assertArrayEquals(answer, result.tokens);
                    assertEquals(StopReason.STOP, result.stopReason);
                    assertEquals(length, result.prefillPositionForwards);
                    assertEquals(positionForwards(engine, length == PROMPT.length ? 1 : 3), result.positionForwards);
                    assertEquals(engine.active.size(), result.steps);
                    assertTrue(result.positionForwards < session.generate(
                            prompt(length), options(ComputePolicy.ALL).adaptive(false), null).positionForwards);
                }
                int before = session.prefixIds().length;
                assertArrayEquals(answer, session.generate(AGAIN, options(compute).continued(true), null).tokens);
                assertEquals(before + 1 + answer.length + 1, session.prefixIds().length);
                assertArrayEquals("the stock loop goes on from there", answer,
                        session.generate(AGAIN, options(ComputePolicy.ALL).continued(true), null).tokens);
            }
        }
    }

    @Test
    public void aCanvasThatStartsNarrowTellsHowWideItIs() throws Exception {
        Session session = session(of(SHORT));
        List<Integer> widths = new ArrayList<>();
        List<String> texts = new ArrayList<>();
        session.generate(PROMPT, options(EARLY.startWidth(2)), event -> {
            widths.add(event.width);
            texts.add(event.text());
            for (int i = event.width; i < N && event.step == 1; i++) {
                assertEquals(0, event.argmax[i]);
                assertEquals(0, event.entropy[i], 0);
            }
        });
        assertEquals(Arrays.asList(2, 4, 8, 16), widths.subList(0, 4));
        assertEquals(11, widths.get(widths.size() - 1).intValue());
        assertEquals(new ToyTokenizer().decode(SHORT), texts.get(texts.size() - 1));
        assertTrue(texts.get(0), texts.get(0).length() < texts.get(texts.size() - 1).length());
    }

    @Test
    public void aCanvasWithoutTimeToGrowIsCommittedAsFarAsItIs() throws Exception {
        Session session = session(new ToyEngine(patient(manifest -> {
            manifest.put("steps", 3);
            manifest.put("sampler", ToyBundle.object("steps", 3));
        }), LONG));
        List<Integer> before = new ArrayList<>();
        session.generate(PROMPT, options(EARLY.startWidth(2)).maxNewTokens(24), event -> before.add(event.committed.length));
        assertEquals("widths 2, 4, 8", Arrays.asList(0, 0, 0, 8, 8, 8, 16, 16, 16), before);
        assertEquals(PROMPT.length + 24, session.prefixIds().length);
    }

    @Test
    public void fixedStepsRunThemAll() throws Exception {
        for (ComputePolicy compute : POLICIES) {
            Session session = session(of(SHORT));
            Result result = session.generate(PROMPT, options(compute).adaptive(false), null);
            assertArrayEquals(SHORT, result.tokens);
            assertEquals(STEPS * result.canvases, result.steps);
        }
    }

    @Test
    public void aDraftThatIsWrongIsCutBackAndTheTextIsThatOfGreedyDecoding() throws Exception {
        for (int position = 0; position < N; position++) {
            Wrong engine = new Wrong(position);
            Session session = session(engine);
            int[] greedy = session.decodeGreedy(PROMPT, GenerateOptions.DEFAULT).tokens;
            engine.encoded.clear();
            Result result = session.generate(PROMPT, options(ComputePolicy.ALL.speculate(true)), null);
            assertArrayEquals(greedy, result.tokens);
            assertEquals(StopReason.STOP, result.stopReason);
            assertArrayEquals(join(PROMPT, LONG, ToyBundle.END_OF_TURN), session.prefixIds());
            assertEquals(positionForwards(engine, 1), result.positionForwards);
            // Each draft of 16 holds up to the wrong position; the first id of one is never drafted.
            int holds = position == 0 ? N : position;
            assertEquals((LONG.length + 1 + holds - 1) / holds, result.canvases);
            Result plain = session.generate(PROMPT, options(EARLY), null);
            assertEquals("control: without a check it stays", 300, plain.tokens[position]);
            result = session.generate(PROMPT, options(ComputePolicy.ALL.speculate(true)).maxNewTokens(18), null);
            assertArrayEquals(Arrays.copyOf(LONG, 18), result.tokens);
            assertEquals(StopReason.LENGTH, result.stopReason);
            assertArrayEquals(join(PROMPT, result.tokens), session.prefixIds());
        }
    }

    @Test
    public void cancelInACallbackDropsTheCanvas() throws Exception {
        for (ComputePolicy compute : POLICIES) {
            Session session = session(of(LONG));
            Result result = session.generate(PROMPT, options(compute), event -> {
                if (event.canvasIndex == 1 && event.step == 2) {
                    session.cancel();
                }
            });
            assertEquals(StopReason.CANCELLED, result.stopReason);
            assertArrayEquals(join(PROMPT, result.tokens), session.prefixIds());
            assertArrayEquals(Arrays.copyOf(LONG, N), result.tokens);
            assertArrayEquals(LONG, session.generate(PROMPT, options(compute), null).tokens);
        }
    }

    /** What a native call does when it is the n-th of a graph. */
    private static Consumer<String> at(String graph, int n, Runnable act) {
        int[] seen = {0};
        return called -> {
            if (called.equals(graph) && ++seen[0] == n) {
                act.run();
            }
        };
    }

    @Test
    public void aCheckThatIsInterruptedOrFailsLeavesThePrefixAsBeforeTheCanvas() throws Exception {
        ToyEngine engine = of(LONG);
        Session session = session(engine);
        for (int canvas = 0; canvas < 2; canvas++) {
            int[] kept = Arrays.copyOf(LONG, canvas * N);
            int call = 2 + canvas; // the first check is the prompt's
            engine.before = at(ComputePolicy.CHECK, call, () -> {
                session.cancel();
                throw new Engine.InterruptedRun("interrupted");
            });
            Result result = session.generate(PROMPT, options(DRAFT), null);
            assertEquals(StopReason.CANCELLED, result.stopReason);
            assertArrayEquals(kept, result.tokens);
            assertEquals(canvas, result.canvases);
            assertArrayEquals(join(PROMPT, kept), session.prefixIds());
            engine.before = at(ComputePolicy.CHECK, call, () -> {
                throw new EngineException("unhappy");
            });
            says(EngineException.class, "unhappy", () -> session.generate(PROMPT, options(DRAFT), null));
            assertArrayEquals(join(PROMPT, kept), session.prefixIds());
            engine.before = graph -> {};
            assertArrayEquals(LONG, session.generate(AGAIN, options(DRAFT).continued(true), null).tokens);
        }
    }

    @Test
    public void aCancelDuringACheckThatRunsToItsEndTakesEffectBehindTheCanvas() throws Exception {
        ToyEngine engine = of(LONG);
        Session session = session(engine);
        engine.before = at(ComputePolicy.CHECK, 2, session::cancel);
        Result result = session.generate(PROMPT, options(DRAFT), null);
        assertEquals(StopReason.CANCELLED, result.stopReason);
        assertArrayEquals(Arrays.copyOf(LONG, N), result.tokens);
        assertArrayEquals(join(PROMPT, result.tokens), session.prefixIds());
    }

    @Test
    public void aCancelBetweenTheChunksOfACheckDropsTheCanvas() throws Exception {
        ToyEngine engine = new ToyEngine(patient(manifest -> manifest.put("chunk", 7)), LONG);
        Session session = session(engine);
        assertArrayEquals(LONG, session.generate(PROMPT, options(DRAFT), null).tokens);
        // prompt, three chunks of the first draft, the second draft
        engine.before = at(ComputePolicy.CHECK, 5, session::cancel);
        Result result = session.generate(PROMPT, options(DRAFT), null);
        assertEquals(StopReason.CANCELLED, result.stopReason);
        assertArrayEquals(Arrays.copyOf(LONG, N), result.tokens);
        assertArrayEquals(join(PROMPT, result.tokens), session.prefixIds());
        engine.before = graph -> {};
        assertArrayEquals(LONG, session.generate(AGAIN, options(DRAFT).continued(true), null).tokens);
    }

    @Test
    public void aStepThatIsInterruptedOrFailsLeavesThePrefixAsBeforeTheCanvas() throws Exception {
        ToyEngine engine = of(LONG);
        Session session = session(engine);
        for (ComputePolicy compute : POLICIES) {
            engine.before = at(ComputePolicy.ACTIVE, 2, () -> {
                session.cancel();
                throw new Engine.InterruptedRun("interrupted");
            });
            assertEquals(StopReason.CANCELLED, session.generate(PROMPT, options(compute), null).stopReason);
            assertArrayEquals(PROMPT, session.prefixIds());
            engine.before = at(ComputePolicy.ACTIVE, 2, () -> {
                throw new Engine.InterruptedRun("interrupted by nobody");
            });
            says(EngineException.class, "nobody", () -> session.generate(PROMPT, options(compute), null));
            assertArrayEquals(PROMPT, session.prefixIds());
            engine.before = graph -> {};
            assertArrayEquals(LONG, session.generate(AGAIN, options(compute).continued(true), null).tokens);
        }
    }

    @Test
    public void theContextEndsAnAnswerBetweenCanvases() throws Exception {
        int[] endless = new int[500];
        Arrays.fill(endless, 200);
        for (ComputePolicy compute : POLICIES) {
            Session session = session(of(endless));
            Result result = session.generate(
                    prompt(ToyBundle.CONTEXT - 2 * N - 1), options(compute).maxNewTokens(100), null);
            assertEquals(StopReason.CONTEXT, result.stopReason);
            assertEquals(2 * N, result.tokens.length);
        }
    }

    private static Session without(String... graphs) throws Exception {
        return session(new ToyEngine(patient(manifest -> {
            Map<?, ?> engine = (Map<?, ?>) ((Map<?, ?>) manifest.get("graphs")).get("onnx");
            for (String graph : graphs) {
                engine.remove(graph);
            }
        }), SHORT));
    }

    @Test
    public void whatCannotBeIsSaid() throws Exception {
        Session session = session(of(SHORT));
        session.generate(PROMPT, options(EARLY), null);
        says(UsageException.class, "recheck runs positions that were committed early; give earlyCommit or startWidth as well",
                () -> session.generate(PROMPT, options(ComputePolicy.ALL.recheck(true)), null));
        says(UsageException.class, "earlyCommit needs loop host: the fused graph runs every position in every step",
                () -> session.generate(PROMPT, options(EARLY).loop(Loop.GRAPH), null));
        says(UsageException.class, "startWidth 17 must be auto, or at most the exported 16",
                () -> session.generate(PROMPT, options(ComputePolicy.ALL.startWidth(17)), null));
        says(UsageException.class, "this bundle was exported without 'denoise_active'; export it again, or leave earlyCommit out",
                () -> without(ComputePolicy.ACTIVE).generate(PROMPT, options(EARLY), null));
        says(UsageException.class, "was exported without 'check'; export it again",
                () -> without(ComputePolicy.CHECK).generate(PROMPT, options(DRAFT), null));
        assertArrayEquals(SHORT, without(ComputePolicy.CHECK).generate(PROMPT, options(EARLY), null).tokens);
        assertArrayEquals(SHORT, without(ComputePolicy.CHECK, ComputePolicy.ACTIVE)
                .generate(PROMPT, options(ComputePolicy.ALL), null).tokens);
        assertArrayEquals("a refused request changes nothing", ANSWERED, session.prefixIds());
    }
}
