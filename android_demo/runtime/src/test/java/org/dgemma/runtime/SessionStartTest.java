package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.engine.Engine;
import org.junit.Test;

/**
 * {@code start}: exactly one terminal callback whatever happens, none after it, and the races around cancel and close.
 */
public class SessionStartTest {
    private static final int N = ToyBundle.N;
    private static final int[] PROMPT = {ToyBundle.BOS, 50, 51, ToyBundle.START};
    private static final GenerateOptions OPTIONS = GenerateOptions.DEFAULT;
    private static final int[] LONG = SessionTest.range(200, 240);

    private static Session session(ToyEngine engine) {
        return new Session(engine, new ToyTokenizer());
    }

    /** Blocks until no terminal callback runs, as close does, but leaves the session open. */
    private static void awaitIdle(Session session) throws InterruptedException {
        CountDownLatch passed = new CountDownLatch(1);
        session.start(PROMPT, OPTIONS.maxNewTokens(1), new CountingListener() {
            @Override
            public void onDone(Result value) {
                passed.countDown();
            }
        });
        assertTrue(passed.await(10, TimeUnit.SECONDS));
    }

    @Test
    public void textStreamsInWholeCharactersAndJoinsToTheResult() throws Exception {
        ToyTokenizer tokenizer = new ToyTokenizer();
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 7; i++) {
            text.append("\u20ac\uD83D\uDE00a"); // 8 bytes, so canvases of 16 end at varied places after the first
            text.append(i % 2 == 0 ? "b" : "");
        }
        try (Session session = session(ToyEngine.of(tokenizer.encode(text.toString())))) {
            CountingListener listener = new CountingListener();
            session.start(PROMPT, OPTIONS, listener);
            listener.await();
            assertEquals(text.toString(), listener.result.text);
            assertEquals(text.toString(), listener.text.toString());
            assertEquals(listener.result.steps, listener.steps);
            listener = new CountingListener();
            session.start(PROMPT, OPTIONS.maxNewTokens(2), listener); // two of the three bytes of a character
            assertEquals("\uFFFD", listener.await().result.text);
            assertEquals("\uFFFD", listener.text.toString());
        }
    }

    @Test
    public void startIsRefusedAtOnceAndFailuresComeLater() throws Exception {
        Session session = session(ToyEngine.of(LONG));
        CountingListener empty = new CountingListener();
        session.start("", OPTIONS, empty);
        assertTrue(empty.await().error instanceof UsageException);
        awaitIdle(session);
        CountingListener outer = new CountingListener() {
            @Override
            public void onStep(StepEvent event) {
                assertThrows(SessionBusyException.class, () -> session.start(PROMPT, OPTIONS, new CountingListener()));
                assertThrows(SessionBusyException.class, () -> session.generate(PROMPT, OPTIONS, null));
                super.onStep(event);
            }
        };
        session.start(PROMPT, OPTIONS, outer);
        assertArrayEquals(LONG, outer.await().result.tokens);
        session.close();
        assertThrows(SessionBusyException.class, () -> session.start(PROMPT, OPTIONS, new CountingListener()));
    }

    @Test
    public void whatAListenerThrowsBecomesOneFailure() throws Exception {
        Session session = session(ToyEngine.of(LONG));
        for (Throwable thrown : new Throwable[] {
            new IllegalStateException("mine"), new StackOverflowError(), new UsageException("typed")}) {
            for (boolean inText : new boolean[] {false, true}) {
                CountingListener listener = new CountingListener() {
                    @Override
                    public void onStep(StepEvent event) {
                        super.onStep(event);
                        if (!inText && event.canvasIndex == 1) {
                            raise(thrown);
                        }
                    }

                    @Override
                    public void onText(String piece) {
                        super.onText(piece);
                        if (inText) {
                            raise(thrown);
                        }
                    }
                };
                session.start(PROMPT, OPTIONS, listener);
                DgemmaException error = listener.await().error;
                assertTrue(error == thrown || error.getCause() == thrown);
                assertArrayEquals(SessionTest.join(PROMPT, SessionTest.range(200, 200 + N)), session.prefixIds());
            }
        }
        assertArrayEquals(LONG, session.generate(PROMPT, OPTIONS, null).tokens);
    }

    private static void raise(Throwable error) {
        SessionStartTest.<RuntimeException>sneak(error);
    }

    @SuppressWarnings("unchecked")
    private static <T extends Throwable> void sneak(Throwable error) throws T {
        throw (T) error;
    }

    @Test
    public void memoryThatRunsOutIsATypedFailure() throws Exception {
        ToyEngine engine = ToyEngine.of(LONG);
        engine.before = graph -> {
            throw new OutOfMemoryError("Java heap space");
        };
        Session session = session(engine);
        CountingListener listener = new CountingListener();
        session.start(PROMPT, OPTIONS, listener);
        assertTrue(listener.await().error instanceof EngineException);
        engine.before = graph -> {};
        assertArrayEquals(LONG, session.generate(PROMPT, OPTIONS, null).tokens);
    }

    @Test
    public void anExceptionFromATerminalCallbackEndsNothingElse() throws Exception {
        AtomicReference<Throwable> uncaught = new AtomicReference<>();
        CountDownLatch caught = new CountDownLatch(1);
        Thread.UncaughtExceptionHandler old = Thread.getDefaultUncaughtExceptionHandler();
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> {
            uncaught.set(error);
            caught.countDown();
        });
        try (Session session = session(ToyEngine.of(LONG))) {
            RuntimeException mine = new IllegalStateException("mine");
            CountingListener listener = new CountingListener() {
                @Override
                public void onDone(Result value) {
                    super.onDone(value);
                    throw mine;
                }
            };
            session.start(PROMPT, OPTIONS, listener);
            listener.await();
            assertTrue(caught.await(10, TimeUnit.SECONDS));
            assertSame(mine, uncaught.get());
            awaitIdle(session);
            listener.await();
        } finally {
            Thread.setDefaultUncaughtExceptionHandler(old);
        }
    }

    @Test
    public void aTerminalCallbackMayStartOrGenerateAgain() throws Exception {
        try (Session session = session(ToyEngine.of(LONG))) {
            CountDownLatch rounds = new CountDownLatch(5);
            List<Thread> threads = new ArrayList<>();
            session.start(PROMPT, OPTIONS, new CountingListener() {
                @Override
                public void onDone(Result value) {
                    threads.add(Thread.currentThread());
                    assertArrayEquals(LONG, session.generate(PROMPT, OPTIONS, null).tokens);
                    rounds.countDown();
                    if (rounds.getCount() > 0) {
                        session.start(PROMPT, OPTIONS, this);
                    }
                }
            });
            assertTrue(rounds.await(10, TimeUnit.SECONDS));
            assertTrue(threads.get(0).isDaemon());
            assertSame(threads.get(0), threads.get(4));
        }
    }

    @Test
    public void cancelInterruptsTheCallInWork() throws Exception {
        ToyEngine engine = ToyEngine.of(LONG);
        CountDownLatch running = new CountDownLatch(1);
        engine.before = graph -> {
            if (graph.equals("generate")) {
                running.countDown();
                while (engine.interrupts == 0) {
                    LockSupport.parkNanos(100_000);
                }
                throw new Engine.InterruptedRun("interrupted");
            }
        };
        try (Session session = session(engine)) {
            session.cancel(); // nothing runs, so nothing is cancelled, now or later
            CountingListener listener = new CountingListener();
            session.start(PROMPT, OPTIONS.loop(Loop.GRAPH), listener);
            assertTrue(running.await(10, TimeUnit.SECONDS));
            session.cancel();
            assertTrue(listener.await().cancelled);
            assertArrayEquals(PROMPT, session.prefixIds());
        }
    }

    private static void spin(Random random) {
        long end = System.nanoTime() + (random.nextBoolean() ? 0 : random.nextInt(400_000));
        while (System.nanoTime() < end) {
            Thread.yield();
        }
    }

    @Test
    public void cancelRacesWithTheEnd() throws Exception {
        Random random = new Random(1);
        int cancelled = 0;
        ToyEngine engine = ToyEngine.of(LONG);
        try (Session session = session(engine)) {
            for (int round = 0; round < 500; round++) {
                CountingListener listener = new CountingListener();
                session.start(PROMPT, OPTIONS.loop(Loop.values()[round % 2]), listener);
                spin(random);
                session.cancel();
                listener.await();
                assertEquals(listener.result.text, listener.text.toString());
                cancelled += listener.cancelled ? 1 : 0;
                int[] kept = SessionTest.join(PROMPT, listener.result.tokens);
                int[] prefix = session.prefixIds();
                assertArrayEquals(
                        listener.cancelled ? kept : SessionTest.join(kept, new int[] {ToyBundle.END_OF_TURN}), prefix);
            }
        }
        System.out.println(cancelled + " of 500 generations were cancelled in time");
        assertTrue("no race was seen", cancelled > 0);
    }

    @Test
    public void closeRacesWithEverything() throws Exception {
        Random random = new Random(2);
        Bundle bundle = Bundle.open(ToyBundle.write());
        int cancelled = 0;
        for (int round = 0; round < 400; round++) {
            ToyEngine engine = new ToyEngine(bundle, LONG);
            Session session = session(engine);
            CountingListener listener = new CountingListener();
            session.start(PROMPT, OPTIONS.loop(Loop.values()[round % 2]), listener);
            Thread other = new Thread(session::close);
            if (round % 4 == 0) {
                other.start();
            }
            spin(random);
            session.close();
            assertTrue("close frees", engine.closed);
            assertEquals("close waits for the terminal callback", 1, listener.terminals.get());
            int steps = listener.steps;
            listener.await();
            other.join(10_000);
            assertEquals(steps, listener.steps);
            cancelled += listener.cancelled ? 1 : 0;
        }
        System.out.println(cancelled + " of 400 generations were cut short by close");
        assertTrue("no race was seen", cancelled > 0);
    }

    @Test
    public void closeFromACallbackFreesWhenTheGenerationHasEnded() throws Exception {
        for (String where : new String[] {"step", "text", "done"}) {
            ToyEngine engine = ToyEngine.of(LONG);
            Session session = session(engine);
            CountingListener listener = new CountingListener() {
                private void close(String here) {
                    if (here.equals(where)) {
                        session.close();
                        assertEquals(where.equals("done"), engine.closed);
                    }
                }

                @Override
                public void onStep(StepEvent event) {
                    super.onStep(event);
                    close("step");
                }

                @Override
                public void onText(String piece) {
                    super.onText(piece);
                    close("text");
                }

                @Override
                public void onDone(Result value) {
                    close("done");
                    super.onDone(value);
                }
            };
            session.start(PROMPT, OPTIONS, listener);
            listener.await();
            assertEquals(!where.equals("done"), listener.cancelled);
            session.close();
            assertTrue(engine.closed);
            assertThrows(SessionBusyException.class, session::prefixIds);
        }
    }

    @Test
    public void anEngineThatFailsToCloseIsTheBusinessOfClose() throws Exception {
        ToyEngine engine = new ToyEngine(Bundle.open(ToyBundle.write()), LONG) {
            @Override
            public void close() {
                throw new EngineException("cannot close");
            }
        };
        Session session = session(engine);
        CountingListener listener = new CountingListener() {
            @Override
            public void onStep(StepEvent event) {
                session.close();
            }
        };
        session.start(PROMPT, OPTIONS, listener);
        assertTrue(listener.await().cancelled);
        assertThrows(EngineException.class, session::close);
        session.close();
    }

    @Test
    public void closeFromAStepListenerOfABlockingCall() throws Exception {
        ToyEngine engine = ToyEngine.of(LONG);
        Session session = session(engine);
        Result result = session.generate(PROMPT, OPTIONS, event -> session.close());
        assertEquals(StopReason.CANCELLED, result.stopReason);
        assertTrue(engine.closed);
        assertFalse(result.steps > 1);
    }
}
