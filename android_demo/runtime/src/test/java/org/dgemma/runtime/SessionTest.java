package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.stream.IntStream;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.engine.Tensor;
import org.dgemma.tokenizer.TokenizerException;
import org.junit.Test;
import org.junit.function.ThrowingRunnable;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;

/** Session logic over the toy model: prefix, canvases, stops, cancels, limits, in both loops. */
@RunWith(Parameterized.class)
public class SessionTest {
    static final int N = ToyBundle.N;
    static final int[] SHORT = range(200, 210);
    /** Two canvases of 16 and half of a third. */
    static final int[] LONG = range(200, 240);
    static final int[] PROMPT = {ToyBundle.BOS, 50, 51, ToyBundle.START};
    static final int[] AGAIN = {ToyBundle.START};
    static final int[] ANSWERED = join(PROMPT, SHORT, ToyBundle.END_OF_TURN);

    @Parameterized.Parameters(name = "{0}")
    public static Loop[] loops() {
        return Loop.values();
    }

    @Parameterized.Parameter
    public Loop loop;

    static int[] range(int from, int to) {
        return IntStream.range(from, to).toArray();
    }

    static int[] join(int[] a, int[] b, int... c) {
        return IntStream.concat(IntStream.concat(Arrays.stream(a), Arrays.stream(b)), Arrays.stream(c)).toArray();
    }

    static int[] prompt(int length) {
        int[] ids = new int[length];
        Arrays.fill(ids, 50);
        ids[length - 1] = ToyBundle.START;
        return ids;
    }

    static Session session(ToyEngine engine) {
        return new Session(engine, new ToyTokenizer());
    }

    private GenerateOptions options() {
        return GenerateOptions.DEFAULT.loop(loop);
    }

    private static void same(Trajectory a, Trajectory b) {
        assertArrayEquals(a.promptIds, b.promptIds);
        assertArrayEquals(a.canvasIndex, b.canvasIndex);
        assertArrayEquals(a.step, b.step);
        assertArrayEquals(a.temperature, b.temperature, 0);
        assertTrue(Arrays.deepEquals(a.canvasIn, b.canvasIn) && Arrays.deepEquals(a.argmax, b.argmax));
        assertTrue(Arrays.deepEquals(a.entropy, b.entropy) && Arrays.deepEquals(a.accepted, b.accepted));
        assertTrue(Arrays.deepEquals(a.canvasOut, b.canvasOut));
        assertArrayEquals(a.tokens, b.tokens);
    }

    static void says(Class<? extends DgemmaException> kind, String text, ThrowingRunnable runnable) {
        DgemmaException error = assertThrows(kind, runnable);
        assertTrue(error.getMessage(), error.getMessage().contains(text) && !error.getMessage().contains("\n"));
    }

    @Test
    public void answerStopsAtTheStopTokenAndThePrefixHoldsIt() throws Exception {
        for (int stop : new int[] {ToyBundle.END_OF_TURN, ToyBundle.EOS}) {
            ToyEngine engine = ToyEngine.of(SHORT);
            engine.stop = stop;
            try (Session session = session(engine)) {
                Result result = session.generate(PROMPT, options(), null);
                assertArrayEquals(SHORT, result.tokens);
                assertEquals(StopReason.STOP, result.stopReason);
                assertEquals(1, result.canvases);
                assertEquals(4, result.steps); // stable from the third step on
                assertEquals(SHORT.length / 4.0, result.tokensPerForward(), 0);
                assertEquals(loop.word(), result.loop);
                assertEquals(new ToyTokenizer().decode(SHORT), result.text);
                assertArrayEquals(join(PROMPT, SHORT, stop), session.prefixIds());
            }
            assertTrue(engine.closed);
        }
    }

    @Test
    public void trajectoryFollowsTheNoiseContractAndIsTheSameInBothLoops() throws Exception {
        Session session = session(ToyEngine.of(LONG));
        for (long seed : new long[] {0, 7, -1}) {
            for (boolean adaptive : new boolean[] {true, false}) {
                GenerateOptions asked = options().seed(seed).adaptive(adaptive).trace(true);
                Trajectory t = session.generate(PROMPT, asked, null).trajectory;
                same(t, session.generate(PROMPT, asked.loop(Loop.HOST), null).trajectory);
                assertArrayEquals(LONG, t.tokens);
                assertArrayEquals(PROMPT, t.promptIds);
                assertEquals(3 * (adaptive ? 4 : ToyBundle.STEPS), t.step.length);
                for (int row = 0; row < t.step.length; row++) {
                    int number = ToyBundle.STEPS - t.step[row] + 1;
                    assertEquals((float) (0.4 + (0.8 - 0.4) * (t.step[row] / 6.0)), t.temperature[row], 0);
                    assertArrayEquals(
                            number == 1 ? noise(seed, t.canvasIndex[row], 0, 0) : t.canvasOut[row - 1],
                            t.canvasIn[row]);
                    int[] renoised = noise(seed, t.canvasIndex[row], number, N);
                    for (int i = 0; i < N; i++) {
                        assertTrue(t.accepted[row][i] || t.canvasOut[row][i] == renoised[i]);
                    }
                }
            }
        }
    }

    private static int[] noise(long seed, int canvas, int stream, int from) {
        long[] words = new long[from + N];
        Noise.words(Noise.streamKey(seed, canvas, stream), words);
        return IntStream.range(from, from + N).map(i -> (int) Noise.token(words[i], ToyBundle.VOCAB)).toArray();
    }

    @Test
    public void otherSeedsGiveOtherCanvases() throws Exception {
        Session session = session(ToyEngine.of(SHORT));
        Trajectory one = session.generate(PROMPT, options().trace(true), null).trajectory;
        Trajectory two = session.generate(PROMPT, options().trace(true).seed(1), null).trajectory;
        assertFalse(Arrays.deepEquals(one.canvasIn, two.canvasIn));
    }

    @Test
    public void fullCanvasesAreEncodedOnlyWhenSomethingFollows() throws Exception {
        ToyEngine engine = ToyEngine.of(LONG);
        Session session = session(engine);
        assertEquals(3, session.generate(PROMPT, options(), null).canvases);
        assertEquals(Arrays.asList(PROMPT.length, N, N), engine.encoded); // the last canvas waits
        session.generate(AGAIN, options().continued(true), null);
        assertEquals(Arrays.asList(PROMPT.length, N, N, 8 + 1 + 1, N, N), engine.encoded);
    }

    @Test
    public void limit() throws Exception {
        Session session = session(ToyEngine.of(LONG));
        int[][] cases = {{1, 1, 1}, {N, N, 1}, {20, 20, 2}, {40, 40, 3}, {39, 39, 3}, {Integer.MAX_VALUE, 40, 3}};
        for (int[] each : cases) {
            Result result = session.generate(PROMPT, options().maxNewTokens(each[0]), null);
            int[] kept = Arrays.copyOf(LONG, each[1]);
            assertArrayEquals(kept, result.tokens);
            assertEquals(each[2], result.canvases);
            boolean stopped = each[0] >= 40;
            assertEquals(stopped ? StopReason.STOP : StopReason.LENGTH, result.stopReason);
            assertArrayEquals(stopped ? join(PROMPT, kept, ToyBundle.END_OF_TURN) : join(PROMPT, kept),
                    session.prefixIds());
        }
    }

    @Test
    public void longPromptsAreEncodedInChunksIntoCachesThatGrow() throws Exception {
        TreeSet<Long> slots = new TreeSet<>();
        TreeSet<Long> local = new TreeSet<>();
        ToyEngine engine = new ToyEngine(Bundle.open(ToyBundle.write()), SHORT) {
            @Override
            public void run(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
                slots.add(feeds.get("prefix_key_1").size(1));
                local.add(feeds.get("prefix_key_0").size(1));
                super.run(graph, feeds, outputs);
            }
        };
        Session session = session(engine);
        assertArrayEquals(SHORT, session.generate(prompt(2 * ToyBundle.CHUNK + 12), options(), null).tokens);
        assertEquals(Arrays.asList(ToyBundle.CHUNK, ToyBundle.CHUNK, 12), engine.encoded);
        session.generate(prompt(100), options(), null);
        assertEquals(new TreeSet<>(Arrays.asList(64L, 128L)), slots);
        assertEquals("from 71 tokens on a window of 8 needs none of the first 64", 64L, (long) local.last());
    }

    @Test
    public void cachesGrowInStepsAndKeepWhatTheyHold() throws Exception {
        ToyEngine engine = new ToyEngine(Bundle.open(ToyBundle.write(manifest -> {
            manifest.put("context", 1000);
            manifest.put("dims", ToyBundle.object(
                    "S", Arrays.asList(1, 1000), "L", Arrays.asList(1, 1000), "C", Arrays.asList(1, ToyBundle.CHUNK)));
        })), SHORT);
        Prefix prefix = new Prefix(engine);
        assertEquals("nothing is taken before it is needed", 0, prefix.capacity());
        int[][] lengthAndCapacity = {{1, 256}, {256, 256}, {257, 512}, {600, 1000}, {1000, 1000}};
        for (int[] each : lengthAndCapacity) {
            int[] ids = SessionTest.range(0, each[0] - prefix.size());
            prefix.extend(ids, ids.length);
            prefix.encode(() -> false, 0, 0);
            assertEquals(each[0], ToyEngine.prefix(prefix.views("denoise", 0), each[0]).size());
            assertEquals(each[1], prefix.capacity());
        }
        try (Session session = session(engine)) { // the toy fails when a token is in the wrong slot
            session.generate(prompt(200), options(), null);
            for (int i = 0; i < 3; i++) {
                assertArrayEquals(SHORT, session.generate(prompt(200), options().continued(true), null).tokens);
            }
            assertArrayEquals(SHORT, session.decodeGreedy(prompt(700), GenerateOptions.DEFAULT).tokens);
        }
    }

    @Test
    public void theContextEndsAnAnswerBetweenCanvases() throws Exception {
        int[] endless = new int[500];
        Arrays.fill(endless, 200);
        Session session = session(ToyEngine.of(endless));
        int[] prompt = prompt(ToyBundle.CONTEXT - 2 * N - 1); // room for two canvases and one token
        Result result = session.generate(prompt, options().maxNewTokens(100), null);
        assertEquals(StopReason.CONTEXT, result.stopReason);
        assertEquals(2 * N, result.tokens.length);
        result = session.decodeGreedy(prompt(ToyBundle.CONTEXT - 5), GenerateOptions.DEFAULT.maxNewTokens(100));
        assertEquals(StopReason.CONTEXT, result.stopReason);
        assertEquals(ToyBundle.CONTEXT, session.prefixIds().length);
        says(PromptTooLongException.class, "192", () -> session.decodeGreedy(prompt(ToyBundle.CONTEXT), GenerateOptions.DEFAULT));
    }

    @Test
    public void aPromptFillsTheContextExactlyOrIsRefused() throws Exception {
        Session session = session(ToyEngine.of(SHORT));
        session.generate(PROMPT, options(), null);
        says(PromptTooLongException.class, "a prompt of 177 tokens leaves no room for 16 more in the context of 192",
                () -> session.generate(prompt(ToyBundle.CONTEXT - N + 1), options(), null));
        says(PromptTooLongException.class, "a prompt of 162 tokens after 15 tokens of conversation leaves no room", () -> session.generate(
                prompt(ToyBundle.CONTEXT - N - ANSWERED.length + 1), options().continued(true), null));
        assertArrayEquals("a refused request changes nothing", ANSWERED, session.prefixIds());
        assertEquals(StopReason.STOP, session.generate(prompt(ToyBundle.CONTEXT - N), options(), null).stopReason);
    }

    @Test
    public void chatTurnsKeepThePrefix() throws Exception {
        Session session = session(ToyEngine.of(SHORT));
        ToyTokenizer tokenizer = new ToyTokenizer();
        int[] start = {ToyBundle.START_OF_TURN, ToyBundle.USER};
        int[] end = {ToyBundle.END_OF_TURN, ToyBundle.START, ToyBundle.START_OF_TURN, ToyBundle.MODEL, ToyBundle.START};
        session.generate("hi", options(), null);
        int[] turn = join(join(new int[] {ToyBundle.BOS}, start), tokenizer.encode("hi"), end);
        assertArrayEquals(join(turn, SHORT, ToyBundle.END_OF_TURN), session.prefixIds());
        session.generate("bye", options().continued(true).maxNewTokens(3), null);
        turn = join(turn, SHORT, ToyBundle.END_OF_TURN, ToyBundle.START);
        turn = join(turn, join(start, tokenizer.encode("bye")), end);
        assertArrayEquals(join(turn, Arrays.copyOf(SHORT, 3)), session.prefixIds());
        session.generate("hi", options().continued(true), null); // the cut answer gets the stop token that it lacks
        int[] more = Arrays.copyOfRange(session.prefixIds(), turn.length, turn.length + 6);
        assertArrayEquals(
                new int[] {200, 201, 202, ToyBundle.END_OF_TURN, ToyBundle.START, ToyBundle.START_OF_TURN}, more);
        session.reset();
        assertEquals(0, session.prefixIds().length);
        session.generate("bye", options().continued(true), null);
        assertEquals("a conversation starts anew", ToyBundle.BOS, session.prefixIds()[0]);
    }

    @Test
    public void bundlesWithoutTokenizerOrTemplate() throws Exception {
        Session bare = new Session(ToyEngine.of(SHORT), null);
        assertEquals("", bare.generate(PROMPT, options(), event -> assertEquals("", event.text())).text);
        says(TokenizerException.class, "this bundle has no tokenizer; give the prompt as ids", () -> bare.generate("hi", options(), null));
        ToyEngine engine = new ToyEngine(Bundle.open(ToyBundle.write(manifest -> manifest.put("chat", null))), SHORT);
        says(UsageException.class, "the bundle has no chat template; use raw text, or ids as the prompt",
                () -> session(engine).generate("hi", options(), null));
    }

    @Test
    public void eventsTellEachStepAndTheirArraysAreTheListeners() throws Exception {
        Session session = session(ToyEngine.of(LONG));
        List<StepEvent> events = new ArrayList<>();
        Trajectory t = session.generate(PROMPT, options().trace(true), events::add).trajectory;
        assertEquals(12, events.size());
        for (int i = 0; i < 12; i++) {
            StepEvent event = events.get(i);
            assertEquals(i / 4, event.canvasIndex);
            assertEquals(i % 4 + 1, event.step);
            assertEquals(ToyBundle.STEPS - i % 4, event.remaining);
            assertArrayEquals(Arrays.copyOf(LONG, i / 4 * N), event.committed);
            assertArrayEquals(t.argmax[i], event.argmax);
            assertArrayEquals(t.canvasOut[i], event.canvas);
            assertArrayEquals(t.entropy[i], event.entropy, 0);
            assertArrayEquals(t.accepted[i], event.accepted);
        }
        assertEquals(new ToyTokenizer().decode(LONG), events.get(11).text());
        assertEquals(N, events.get(11).pieces().length);
    }

    @Test
    public void adaptiveStopNeedsLowEntropy() throws Exception {
        ToyEngine engine = ToyEngine.of(SHORT);
        Session session = session(engine);
        engine.entropyFloor = 0.0051f; // the threshold is 0.005
        assertEquals(ToyBundle.STEPS, session.generate(PROMPT, options(), null).steps);
        engine.entropyFloor = 0.0049f;
        assertEquals(4, session.generate(PROMPT, options(), null).steps);
    }

    @Test
    public void greedyDecodingGivesTheSameAnswerTokenByToken() throws Exception {
        for (int[] answer : new int[][] {SHORT, LONG}) {
            ToyEngine engine = ToyEngine.of(answer);
            Session session = session(engine);
            Result result = session.decodeGreedy(PROMPT, GenerateOptions.DEFAULT);
            assertArrayEquals(answer, result.tokens);
            assertEquals(StopReason.STOP, result.stopReason);
            assertEquals("decode", result.loop);
            assertEquals(answer.length + 1, result.steps);
            assertArrayEquals(join(PROMPT, answer, ToyBundle.END_OF_TURN), session.prefixIds());
            assertEquals(1, Collections.frequency(engine.calls, "encode"));
            assertEquals(answer.length + 1, Collections.frequency(engine.calls, "decode"));
            assertEquals(StopReason.LENGTH, session.decodeGreedy(AGAIN, GenerateOptions.DEFAULT.maxNewTokens(2)).stopReason);
            engine.before = graph -> session.cancel();
            assertEquals(StopReason.CANCELLED, session.decodeGreedy(AGAIN, GenerateOptions.DEFAULT).stopReason);
        }
    }

    @Test
    public void paddingInPlaceOfAStopTokenIsNoAnswer() throws Exception {
        ToyEngine engine = ToyEngine.of(200, ToyBundle.PAD, 201);
        engine.stop = ToyBundle.PAD;
        try (Session session = session(engine)) {
            Result result = session.generate(PROMPT, options().maxNewTokens(2 * N), null);
            assertEquals(StopReason.LENGTH, result.stopReason);
            assertEquals(2 * N, result.tokens.length);
            assertEquals(2 * N - 3, result.pads);
            assertEquals(3.0 / result.steps, result.tokensPerForward(), 0);
            assertEquals(result.positionForwards / 3.0, result.positionForwardsPerToken(), 0);
            int[] held = join(PROMPT, new int[] {200, ToyBundle.PAD, 201});
            assertArrayEquals(held, session.prefixIds());
            assertEquals(5, session.decodeGreedy(PROMPT, GenerateOptions.DEFAULT.maxNewTokens(8)).pads);
            assertArrayEquals(held, session.prefixIds());
        }
        try (Session session = session(ToyEngine.of(200, ToyBundle.PAD))) {
            Result stopped = session.generate(PROMPT, options(), null);
            assertEquals(StopReason.STOP, stopped.stopReason);
            assertEquals(0, stopped.pads);
            assertArrayEquals(new int[] {200, ToyBundle.PAD}, stopped.tokens);
        }
    }
}
