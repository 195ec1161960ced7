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
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;

/** Cancels, failures and misuse of a session over the toy model, in both loops. */
@RunWith(Parameterized.class)
public class SessionMisuseTest {
    @Parameterized.Parameters(name = "{0}")
    public static Loop[] loops() {
        return Loop.values();
    }

    @Parameterized.Parameter
    public Loop loop;

    private GenerateOptions options() {
        return GenerateOptions.DEFAULT.loop(loop);
    }

    @Test
    public void cancelInACallbackDropsTheCanvas() throws Exception {
        for (int canvas = 0; canvas < 2; canvas++) {
            int inCanvas = canvas;
            Session session = session(ToyEngine.of(LONG));
            Result result = session.generate(PROMPT, options().trace(true), event -> {
                if (event.canvasIndex == inCanvas && event.step == 2) {
                    session.cancel();
                }
            });
            int[] kept = Arrays.copyOf(LONG, inCanvas * N);
            assertEquals(StopReason.CANCELLED, result.stopReason);
            assertEquals(inCanvas, result.canvases);
            assertArrayEquals(kept, result.tokens);
            assertArrayEquals(join(PROMPT, kept), session.prefixIds());
            assertEquals(4 * inCanvas + 2, result.steps);
            assertEquals(result.steps, result.trajectory.step.length);
            assertArrayEquals("the old cancel is gone", LONG, session.generate(PROMPT, options(), null).tokens);
        }
    }

    @Test
    public void theEngineAsksForTheCancelOfTheGenerationThatRuns() throws Exception {
        ToyEngine engine = ToyEngine.of(SHORT);
        List<Boolean> asked = new ArrayList<>();
        try (Session session = session(engine)) {
            engine.before = graph -> {
                asked.add(engine.cancelled.getAsBoolean());
                session.cancel();
                asked.add(engine.cancelled.getAsBoolean());
            };
            assertEquals(StopReason.CANCELLED, session.generate(PROMPT, options(), null).stopReason);
            assertEquals(StopReason.CANCELLED, session.generate(PROMPT, options(), null).stopReason);
        }
        assertEquals(Arrays.asList(false, true, false, true), asked);
    }

    @Test
    public void cancelWhileALongPromptIsEncoded() throws Exception {
        for (boolean greedy : new boolean[] {false, true}) {
            for (boolean interrupted : new boolean[] {false, true}) {
                ToyEngine engine = ToyEngine.of(SHORT);
                Session session = session(engine);
                engine.before = graph -> {
                    session.cancel();
                    if (interrupted) {
                        throw new Engine.InterruptedRun("interrupted");
                    }
                };
                int[] prompt = prompt(3 * ToyBundle.CHUNK + 1);
                Result result = greedy
                        ? session.decodeGreedy(prompt, GenerateOptions.DEFAULT)
                        : session.generate(prompt, options(), null);
                assertEquals(StopReason.CANCELLED, result.stopReason);
                assertEquals(0, result.steps);
                assertEquals(interrupted ? Collections.emptyList() : Arrays.asList(ToyBundle.CHUNK), engine.encoded);
                assertArrayEquals(prompt, session.prefixIds());
                assertEquals(1, engine.interrupts);
                engine.before = graph -> {};
                assertArrayEquals("the rest is encoded now", SHORT,
                        session.generate(AGAIN, options().continued(true), null).tokens);
            }
        }
    }

    @Test
    public void aCallThatEndsItselfIsNoCancel() throws Exception {
        ToyEngine engine = ToyEngine.of(SHORT);
        Session session = session(engine);
        engine.before = graph -> {
            throw new Engine.InterruptedRun("interrupted by nobody");
        };
        says(EngineException.class, "nobody", () -> session.generate(PROMPT, options(), null));
        says(EngineException.class, "nobody", () -> session.decodeGreedy(PROMPT, GenerateOptions.DEFAULT));
    }

    @Test
    public void whatAListenerThrowsComesOutAndTheSessionStaysUsable() throws Exception {
        Session session = session(ToyEngine.of(LONG));
        for (Throwable error : new Throwable[] {new IllegalStateException("mine"), new StackOverflowError()}) {
            Throwable seen = assertThrows(error.getClass(), () -> session.generate(PROMPT, options(), event -> {
                if (event.canvasIndex == 1) {
                    SessionMisuseTest.<RuntimeException>raise(error);
                }
            }));
            assertEquals(error, seen);
            assertArrayEquals(join(PROMPT, Arrays.copyOf(LONG, N)), session.prefixIds());
            session.rewind(PROMPT.length);
            assertArrayEquals(LONG, session.generate(AGAIN, options().continued(true), null).tokens);
        }
    }

    @SuppressWarnings("unchecked")
    private static <T extends Throwable> void raise(Throwable error) throws T {
        throw (T) error;
    }

    @Test
    public void oneGenerationAtATime() throws Exception {
        Session session = session(ToyEngine.of(SHORT));
        List<String> refused = new ArrayList<>();
        Result result = session.generate(PROMPT, options(), event -> {
            says(SessionBusyException.class, "is generating", () -> session.generate(PROMPT, options(), null));
            says(SessionBusyException.class, "is generating", () -> session.decodeGreedy(PROMPT, GenerateOptions.DEFAULT));
            says(SessionBusyException.class, "is generating", session::reset);
            refused.add("all");
        });
        assertArrayEquals(SHORT, result.tokens);
        assertEquals(4, refused.size());
        session.close();
        session.close();
        says(SessionBusyException.class, "closed", () -> session.generate(PROMPT, options(), null));
        says(SessionBusyException.class, "closed", session::reset);
        says(SessionBusyException.class, "closed", session::prefixIds);
        session.cancel();
    }

    @Test
    public void badArguments() throws Exception {
        Session session = session(ToyEngine.of(SHORT));
        session.generate(PROMPT, options(), null);
        says(UsageException.class, "empty", () -> session.generate(new int[0], options(), null));
        says(UsageException.class, "empty", () -> session.generate((int[]) null, options(), null));
        says(UsageException.class, "empty", () -> session.generate("", options(), null));
        says(UsageException.class, "empty", () -> session.generate((String) null, options().raw(true), null));
        says(UsageException.class, "617", () -> session.generate(new int[] {ToyBundle.VOCAB}, options(), null));
        says(UsageException.class, "617", () -> session.generate(new int[] {-1}, options(), null));
        says(UsageException.class, "maxNewTokens", () -> options().maxNewTokens(0));
        says(UsageException.class, "host, graph", () -> options().loop(null));
        says(UsageException.class, "diffusion, autoregressive", () -> options().decoder(null));
        says(UsageException.class, "trace needs decoder diffusion: autoregressive decoding has no denoising steps",
                () -> session.decodeGreedy(PROMPT, options().trace(true)));
        says(UsageException.class, "rewind", () -> session.rewind(-1));
        says(UsageException.class, "rewind", () -> session.rewind(ANSWERED.length + 1));
        assertArrayEquals(ANSWERED, session.prefixIds());
        session.rewind(2);
        assertArrayEquals(Arrays.copyOf(ANSWERED, 2), session.prefixIds());
    }

    @Test
    public void failuresLeaveTheSessionUsable() throws Exception {
        ToyEngine engine = ToyEngine.of(SHORT);
        Session session = session(engine);
        engine.before = graph -> {
            if (!graph.equals("encode")) {
                throw new EngineException("unhappy");
            }
        };
        says(EngineException.class, "unhappy", () -> session.generate(PROMPT, options(), null));
        assertArrayEquals(PROMPT, session.prefixIds());
        engine.before = graph -> {};
        assertArrayEquals(SHORT, session.generate(PROMPT, options(), null).tokens);
        assertNull(session.generate(PROMPT, options(), null).trajectory);
        assertNotNull(session.warnings());
    }

    @Test
    public void aFusedGraphThatCommitsSomethingElseIsRefused() throws Exception {
        ToyEngine engine = new ToyEngine(Bundle.open(ToyBundle.write()), SHORT) {
            @Override
            public void run(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
                super.run(graph, feeds, outputs);
                if (graph.equals("generate")) {
                    outputs.get("committed").data.putLong(0, 17);
                }
            }
        };
        says(EngineException.class, "did not commit",
                () -> session(engine).generate(PROMPT, options().loop(Loop.GRAPH), null));
    }
}
