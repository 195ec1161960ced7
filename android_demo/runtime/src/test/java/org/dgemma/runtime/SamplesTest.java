package org.dgemma.runtime;

import static org.dgemma.runtime.SessionTest.PROMPT;
import static org.dgemma.runtime.SessionTest.join;
import static org.dgemma.runtime.SessionTest.range;
import static org.dgemma.runtime.SessionTest.says;
import static org.dgemma.runtime.SessionTest.session;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.Test;

/** Several answers to one prompt, how far they agree, and greedy decoding where the canvases say nothing. */
public class SamplesTest {
    private static final GenerateOptions DEFAULT = GenerateOptions.DEFAULT;
    private static final GenerateOptions FALLBACK = DEFAULT.fallback(true);
    /** Behind it, the model of {@link #silent} says nothing. */
    private static final int[] ANSWERED = join(PROMPT, new int[] {200, 201});

    private static ToyEngine silent() throws Exception {
        return ToyEngine.of(200, 201);
    }

    @Test
    public void whatMostOfThemSay() throws Exception {
        try (Session session = session(ToyEngine.of(range(200, 240)))) {
            List<Result> results = Arrays.asList(3, 2, 2, 1, 3).stream()
                    .map(most -> session.generate(PROMPT, DEFAULT.maxNewTokens(most), null)).collect(Collectors.toList());
            Samples samples = new Samples(results);
            List<String> texts = results.stream().map(result -> result.text).collect(Collectors.toList());
            assertEquals("{" + texts.get(0) + "=2, " + texts.get(1) + "=2, " + texts.get(3) + "=1}", samples.votes().toString());
            assertSame(results.get(0), samples.best());
            assertEquals(0.4, samples.agreement(), 0);
        }
        try (Session session = new Session(silent(), null)) {
            Samples samples = session.sample(PROMPT, DEFAULT, 3);
            assertEquals("tokens, where there is no text", Collections.singletonMap(Arrays.asList(200, 201), 3), samples.votes());
        }
    }

    @Test
    public void seedsFollowEachOtherAndThePromptIsEncodedOnce() throws Exception {
        ToyEngine engine = ToyEngine.of(range(200, 210));
        try (Session session = session(engine)) {
            Samples samples = session.sample(PROMPT, DEFAULT.seed(-1).trace(true), 3);
            assertEquals(Collections.singletonList(PROMPT.length), engine.encoded);
            assertArrayEquals(PROMPT, session.prefixIds());
            for (int i = 0; i < 3; i++) {
                Trajectory alone = session.generate(PROMPT, DEFAULT.seed(i - 1).trace(true), null).trajectory;
                assertTrue(Arrays.deepEquals(alone.canvasOut, samples.results.get(i).trajectory.canvasOut));
            }
        }
    }

    @Test
    public void aCancelEndsThem() throws Exception {
        ToyEngine engine = ToyEngine.of(range(200, 210));
        try (Session session = session(engine)) {
            engine.before = graph -> {
                if (Collections.frequency(engine.calls, "denoise") == 5) { // in the second answer
                    session.cancel();
                }
            };
            Samples samples = session.sample(PROMPT, DEFAULT, 9);
            assertEquals(2, samples.results.size());
            assertEquals(StopReason.CANCELLED, samples.results.get(1).stopReason);
            assertArrayEquals(PROMPT, session.prefixIds());
        }
    }

    @Test
    public void anEmptyAnswerIsDecoded() throws Exception {
        for (Loop loop : Loop.values()) {
            try (Session session = session(silent())) {
                Result result = session.generate(ANSWERED, FALLBACK.loop(loop), null);
                assertEquals("decode", result.loop);
                assertEquals("the canvas gave a stop token at once; this answer is autoregressive", result.warnings.get(0));
                assertEquals("the answer is empty: the model ended it at once", result.warnings.get(1));
                assertEquals(StopReason.STOP, result.stopReason);
                assertArrayEquals(join(ANSWERED, new int[] {ToyBundle.END_OF_TURN}), session.prefixIds());
                assertEquals("control", loop.word(), session.generate(PROMPT, FALLBACK.loop(loop), null).loop);
                for (Result each : session.sample(ANSWERED, FALLBACK.loop(loop), 3).results) {
                    assertEquals("decode", each.loop);
                    assertEquals(StopReason.STOP, each.stopReason);
                    assertEquals(0, each.tokens.length);
                }
            }
        }
    }

    @Test
    public void onlyPaddingIsEmptyToo() throws Exception {
        ToyEngine engine = silent();
        engine.stop = ToyBundle.PAD;
        try (Session session = session(engine)) {
            Result result = session.generate(ANSWERED, FALLBACK.maxNewTokens(4), null);
            assertEquals("the canvas gave only padding; this answer is autoregressive", result.warnings.get(0));
            assertEquals("the answer is empty: the model gave only padding", result.warnings.get(1));
            assertEquals(4, result.pads);
            assertEquals(StopReason.LENGTH, result.stopReason);
            assertArrayEquals(ANSWERED, session.prefixIds());
            assertEquals("host", session.generate(ANSWERED, DEFAULT.maxNewTokens(4), null).loop);
        }
    }

    @Test
    public void whatCannotBeIsRefused() throws Exception {
        String greedy = " cannot be combined with fallback, whose tokens come from greedy decoding; leave one out";
        says(UsageException.class, "ban" + greedy, () -> FALLBACK.ban("x"));
        says(UsageException.class, "logitBias" + greedy, () -> FALLBACK.sampler(SamplerOptions.EXPORTED.ban(7)));
        says(UsageException.class, "template determines where the answer ends; leave stop and fallback out",
                () -> FALLBACK.stop("x").template("a{{1}}"));
        says(UsageException.class, "minTokens cannot be combined with fallback, which can end it sooner",
                () -> FALLBACK.minTokens(1));
        try (Session session = session(silent())) {
            says(UsageException.class, "n 0 must be between 1 and 1000", () -> session.sample(PROMPT, DEFAULT, 0));
            says(UsageException.class, "n 1001 must be between 1 and 1000", () -> session.sample(PROMPT, DEFAULT, 1001));
            String same = "n needs decoder diffusion without speculate: greedy decoding always gives the same answer";
            says(UsageException.class, same, () -> session.sample(PROMPT, DEFAULT.decoder(Decoder.AUTOREGRESSIVE), 2));
            says(UsageException.class, same,
                    () -> session.sample(PROMPT, DEFAULT.compute(ComputePolicy.ALL.speculate(true)), 2));
            assertEquals(0, session.prefixIds().length);
        }
    }
}
