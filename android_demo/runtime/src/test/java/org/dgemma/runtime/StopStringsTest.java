package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.dgemma.tokenizer.TokenizerException;
import org.junit.Test;

/** Stop strings across tokens and canvases, and what is told of a text that may be the beginning of one. */
public class StopStringsTest {
    private static final ToyTokenizer TOKENIZER = new ToyTokenizer();
    private static final String ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"; // two canvases of 16 and half of a third

    private static StopStrings of(String... strings) {
        return new StopStrings(Arrays.asList(strings), TOKENIZER::decode);
    }

    @Test
    public void theFirstOfThemEndsTheText() {
        StopStrings stops = of("ef", "cd");
        assertEquals(2, stops.kept(TOKENIZER.encode("abcdef")));
        assertEquals("cd", stops.found);
        assertEquals("ab", stops.text);
        assertEquals(3, of("x").kept(TOKENIZER.encode("abc")));
        assertNull(of("x").found);
    }

    @Test
    public void whatMayBeginOneWaits() {
        assertEquals("ab", of("cde").sure("abcd"));
        assertEquals("abce", of("cde").sure("abce"));
        assertEquals("a", of("ba", "bb").sure("ab"));
        assertEquals("", of("abc").sure("ab"));
    }

    @Test
    public void anAnswerEndsBeforeOne() throws Exception {
        for (Loop loop : Loop.values()) {
            for (String stop : new String[] {"c", "pq", "z0", "opqr"}) {
                ToyEngine engine = ToyEngine.of(TOKENIZER.encode(ALPHABET));
                try (Session session = SessionTest.session(engine)) {
                    GenerateOptions options = GenerateOptions.DEFAULT.loop(loop).stop("none", stop);
                    Result result = session.generate(SessionTest.PROMPT, options, null);
                    String before = ALPHABET.substring(0, ALPHABET.indexOf(stop));
                    assertEquals(before, result.text);
                    assertEquals(stop, result.stopString);
                    assertEquals(StopReason.STOP, result.stopReason);
                    assertArrayEquals(TOKENIZER.encode(before), result.tokens);
                    assertArrayEquals(SessionTest.join(SessionTest.PROMPT, result.tokens), session.prefixIds());
                    int canvases = (before.length() + stop.length() - 1) / ToyBundle.N + 1;
                    assertEquals("no canvas more than the string needs", canvases, result.canvases);
                }
            }
        }
    }

    @Test
    public void nothingOfItIsTold() throws Exception {
        ToyEngine engine = ToyEngine.of(TOKENIZER.encode(ALPHABET));
        try (Session session = SessionTest.session(engine)) {
            CountingListener listener = new CountingListener();
            session.start(SessionTest.PROMPT, GenerateOptions.DEFAULT.stop("pq"), listener);
            assertTrue(listener.ended.await(10, java.util.concurrent.TimeUnit.SECONDS));
            assertEquals(ALPHABET.substring(0, 15), listener.text.toString());
        }
    }

    @Test
    public void logprobsEndWithTheAnswer() throws Exception {
        List<Integer> none = Collections.emptyList();
        Candidates candidates = new Candidates(3, 2);
        candidates.put(0, new long[] {7, 9}, new float[] {-0.5f, -2});
        candidates.put(1, new long[] {9, 8}, new float[] {-0.25f, Float.NEGATIVE_INFINITY});
        List<TokenLogprob> found = candidates.of(new int[] {9, 9, 4}, 3, 2);
        assertEquals(-2.0, found.get(0).logprob, 0);
        assertEquals("{7=-0.5, 9=-2.0}", found.get(0).top.toString());
        assertEquals("{9=-0.25}", found.get(1).top.toString());
        assertEquals(Double.NEGATIVE_INFINITY, found.get(2).logprob, 0);
        assertEquals(none, candidates.of(new int[0], 0, 1));
    }

    @Test
    public void anAnswerThatBeginsWithOneIsEmpty() throws Exception {
        try (Session session = SessionTest.session(ToyEngine.of(TOKENIZER.encode("it's\nso")))) {
            String[][] stops = {{"it", "'it'"}, {"it's", "\"it's\""}, {"it's\n", "\"it's\\n\""}};
            for (String[] stop : stops) {
                Result result = session.generate(SessionTest.PROMPT, GenerateOptions.DEFAULT.stop(stop[0]), null);
                assertEquals(Collections.singletonList("the answer is empty: it begins with the stop string " + stop[1]),
                        result.warnings);
            }
            assertEquals(Collections.emptyList(),
                    session.generate(SessionTest.PROMPT, GenerateOptions.DEFAULT.stop("so"), null).warnings);
        }
    }

    @Test
    public void whatCannotBeIsRefused() throws Exception {
        SessionTest.says(UsageException.class, "stop ['a', ''] must be non-empty strings",
                () -> GenerateOptions.DEFAULT.stop("a", ""));
        SessionTest.says(UsageException.class, "logprobs needs decoder diffusion and loop host: the other graphs return only tokens",
                () -> GenerateOptions.DEFAULT.loop(Loop.GRAPH).logprobs(1));
        SessionTest.says(UsageException.class,
                "ban cannot be combined with speculate, whose tokens come from greedy decoding; leave one out",
                () -> GenerateOptions.DEFAULT.compute(ComputePolicy.ALL.speculate(true)).ban("x"));
        SessionTest.says(UsageException.class, "logitBias: id -1 must be an integer, 0 or more",
                () -> SamplerOptions.EXPORTED.logitBias(-1, 1));
        SessionTest.says(UsageException.class, "logitBias of id 1: nan must be a number from -1e+100 to 1e+100, or -inf",
                () -> SamplerOptions.EXPORTED.logitBias(1, Double.NaN));
        try (Session session = SessionTest.session(ToyEngine.of(200))) {
            SessionTest.says(UsageException.class, "ban 'abc' takes 3 tokens",
                    () -> session.generate(SessionTest.PROMPT, GenerateOptions.DEFAULT.ban("abc"), null));
            SessionTest.says(UsageException.class, "outside the vocabulary",
                    () -> session.generate(SessionTest.PROMPT,
                            GenerateOptions.DEFAULT.sampler(SamplerOptions.EXPORTED.ban(ToyBundle.VOCAB)), null));
            SessionTest.says(UsageException.class, "logprobs 17 must be at most 16",
                    () -> session.generate(SessionTest.PROMPT, GenerateOptions.DEFAULT.logprobs(17), null));
            SessionTest.says(UsageException.class, "certain at temperature 0",
                    () -> session.generate(SessionTest.PROMPT, GenerateOptions.DEFAULT.logprobs(1)
                            .sampler(SamplerOptions.EXPORTED.temperature(0)), null));
            SessionTest.says(UsageException.class,
                    "ban needs decoder diffusion: autoregressive decoding returns a single token, without candidates",
                    () -> session.decodeGreedy(SessionTest.PROMPT, GenerateOptions.DEFAULT.ban("x")));
        }
        try (Session session = new Session(ToyEngine.of(200), null)) {
            SessionTest.says(TokenizerException.class, " has no tokenizer; give ids",
                    () -> session.generate(SessionTest.PROMPT, GenerateOptions.DEFAULT.ban("x"), null));
            SessionTest.says(TokenizerException.class,
                    "this bundle has no tokenizer, so its answers have no text; leave stop out",
                    () -> session.generate(SessionTest.PROMPT, GenerateOptions.DEFAULT.stop("x"), null));
        }
    }
}
