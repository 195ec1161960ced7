package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.dgemma.DgemmaException;

/** Counts callbacks, and fails on one after the terminal callback. */
class CountingListener implements GenerationListener {
    final CountDownLatch ended = new CountDownLatch(1);
    final AtomicInteger terminals = new AtomicInteger();
    final List<String> wrong = Collections.synchronizedList(new ArrayList<>());
    final StringBuilder text = new StringBuilder();
    volatile int steps;
    volatile Result result;
    volatile DgemmaException error;
    volatile boolean cancelled;

    @Override
    public void onStep(StepEvent event) {
        if (terminals.get() > 0) {
            wrong.add("a step after the end");
        }
        steps++;
    }

    @Override
    public void onText(String piece) {
        if (terminals.get() > 0 || piece.isEmpty() || Character.isHighSurrogate(piece.charAt(piece.length() - 1))) {
            wrong.add("text '" + piece + "'");
        }
        text.append(piece);
    }

    private void end() {
        terminals.incrementAndGet();
        ended.countDown();
    }

    @Override
    public void onDone(Result value) {
        result = value;
        end();
    }

    @Override
    public void onCancelled(Result value) {
        cancelled = true;
        result = value;
        end();
    }

    @Override
    public void onFailed(DgemmaException value) {
        error = value;
        end();
    }

    CountingListener await() throws InterruptedException {
        assertTrue("no terminal callback", ended.await(10, TimeUnit.SECONDS));
        assertEquals(Collections.emptyList(), wrong);
        assertEquals(1, terminals.get());
        return this;
    }
}
