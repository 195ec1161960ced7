package org.dgemma.runtime;

import org.jspecify.annotations.Nullable;

/**
 * Who may use a session: one generation at a time, none after close, and close waits for what runs.
 *
 * <p>A use begins with {@link #acquire} on the thread that asks for it and ends with {@link #release} on the thread
 * that ran it. A terminal callback comes after the release, so that a new use may start from it, and before {@link
 * #told}; close waits for that too.
 */
final class Gate {
    private final Runnable interrupt;
    private final Runnable free;
    private boolean busy;
    private boolean closing;
    private boolean freed;
    private @Nullable Thread runner;
    private @Nullable Thread teller;
    private @Nullable RuntimeException failure;
    private volatile boolean cancelled;

    /**
     * @param interrupt ends a native call that runs; called while something holds the gate, never after {@code free}.
     * @param free called once, when the session is closed and nothing runs; what it throws, close throws.
     */
    Gate(Runnable interrupt, Runnable free) {
        this.interrupt = interrupt;
        this.free = free;
    }

    /**
     * Throws SessionBusyException when something runs, or after close.
     *
     * @param here whether this thread runs it; otherwise the one that calls {@link #moveHere} does
     */
    synchronized void acquire(boolean here) {
        checkOpen();
        if (busy) {
            throw new SessionBusyException(
                    "the session is generating; wait for it, cancel it, or load a second session");
        }
        busy = true;
        cancelled = false;
        runner = here ? Thread.currentThread() : null;
    }

    /** The use goes on on this thread. */
    synchronized void moveHere() {
        runner = Thread.currentThread();
    }

    /** @param tells whether a terminal callback follows on this thread, and {@link #told} after it. */
    synchronized void release(boolean tells) {
        busy = false;
        runner = null;
        if (tells) {
            teller = Thread.currentThread();
        }
        if (closing) {
            freeOnce();
        }
        notifyAll();
    }

    synchronized void told() {
        teller = null;
        notifyAll();
    }

    synchronized void checkOpen() {
        if (closing) {
            throw new SessionBusyException("the session is closed; load it again");
        }
    }

    /** Nothing to cancel is no error. */
    synchronized void cancel() {
        if (busy && !cancelled) {
            cancelled = true;
            interrupt.run();
        }
    }

    boolean isCancelled() {
        return cancelled;
    }

    /**
     * Cancels, waits for what runs and for its terminal callback, and frees. From a callback it returns at once, and
     * the session is freed when its generation has ended.
     */
    synchronized void close() {
        closing = true;
        cancel();
        if (!busy) {
            freeOnce();
        }
        boolean interrupted = false;
        Thread me = Thread.currentThread();
        while (runner != me && teller != me && (!freed || teller != null)) {
            try {
                wait();
            } catch (InterruptedException error) {
                interrupted = true;
            }
        }
        if (interrupted) {
            me.interrupt();
        }
        RuntimeException thrown = failure;
        failure = null;
        if (thrown != null) {
            throw thrown;
        }
    }

    private void freeOnce() {
        if (!freed) {
            freed = true;
            try {
                free.run();
            } catch (RuntimeException error) { // on the worker it must not take the terminal callback with it
                failure = error;
            }
        }
    }
}
