package org.dgemma.runtime.engine;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.BundleException;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Manifest.GraphSpec;
import org.dgemma.runtime.Placement;

/** What every engine does alike: graphs loaded once, tensors checked before native code sees them, native time counted. */
abstract class AbstractEngine implements Engine {
    private static final int MESSAGE = 300;

    final Bundle bundle;
    private final String name;
    private final String version;
    private final Map<String, Signature> signatures = new HashMap<>();
    private final List<String> warnings = new ArrayList<>();
    /** Held while native code may run, so that close cannot free what it uses. */
    private final ReentrantLock use = new ReentrantLock();
    /** Guards the three fields below it. */
    private final Object state = new Object();
    private boolean running;
    private boolean interrupted;
    private boolean closed;
    private volatile double seconds;
    private Placement placement;
    private volatile BooleanSupplier cancelled = () -> false;

    AbstractEngine(String name, String version, Bundle bundle) {
        this.name = name;
        this.version = version;
        this.bundle = bundle;
        this.placement = Placement.cpu(name, null);
    }

    /** Open the graph's file; exceptions of any kind become an EngineException. */
    abstract void load(String graph, GraphSpec spec) throws Exception;

    /** Run a graph that was loaded, on tensors that were checked. */
    abstract void call(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) throws Exception;

    /** Free everything native. Called once, while nothing runs. */
    abstract void free();

    /** Ask the native call that runs to end; called at most once a run. */
    void terminate() throws Exception {}

    /** Undo {@link #terminate} before the next run. */
    void rearm() throws Exception {}

    @Override
    public final String name() {
        return name;
    }

    @Override
    public final String version() {
        return version;
    }

    @Override
    public final Placement placement() {
        return placement;
    }

    /** This engine, which runs there. */
    final AbstractEngine placed(Placement found) {
        placement = found;
        return this;
    }

    @Override
    public final Bundle bundle() {
        return bundle;
    }

    @Override
    public final double seconds() {
        return seconds;
    }

    @Override
    public final List<String> warnings() {
        synchronized (warnings) {
            return new ArrayList<>(warnings);
        }
    }

    final void warn(String text) {
        synchronized (warnings) {
            warnings.add(text);
        }
    }

    @Override
    public final void prepare(String... graphs) {
        use.lock();
        try {
            for (String graph : graphs) {
                signature(graph);
            }
        } finally {
            use.unlock();
        }
    }

    @Override
    public final void run(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
        use.lock();
        try {
            signature(graph).check(feeds, outputs);
            begin(graph);
            long started = System.nanoTime();
            boolean wasInterrupted;
            try {
                call(graph, feeds, outputs);
            } catch (Exception | LinkageError error) {
                synchronized (state) {
                    wasInterrupted = interrupted;
                }
                if (wasInterrupted) {
                    throw interruptedRun(graph);
                }
                throw failed(graph, error);
            } finally {
                seconds += (System.nanoTime() - started) * 1e-9;
                synchronized (state) {
                    running = false;
                }
            }
        } finally {
            use.unlock();
        }
    }

    @Override
    public final void stopWhen(BooleanSupplier asked) {
        cancelled = asked;
    }

    @Override
    public final void interrupt() {
        synchronized (state) {
            if (running && !interrupted) {
                interrupted = true;
                try {
                    terminate();
                } catch (Exception error) {
                    warn(name + " " + version + " could not be interrupted: " + line(error));
                }
            }
        }
    }

    @Override
    public final void close() {
        synchronized (state) {
            if (closed) {
                return;
            }
            closed = true;
        }
        interrupt();
        use.lock();
        try {
            signatures.clear();
            free();
        } finally {
            use.unlock();
        }
    }

    private Signature signature(String graph) {
        checkOpen();
        Signature found = signatures.get(graph);
        if (found == null) {
            GraphSpec spec = bundle.graph(name, graph);
            found = new Signature(graph, spec, bundle.manifest().dims);
            try {
                load(graph, spec);
            } catch (Exception | LinkageError error) {
                throw failed(graph, error);
            }
            signatures.put(graph, found);
        }
        return found;
    }

    private void begin(String graph) {
        synchronized (state) {
            checkOpen();
            if (interrupted) {
                try {
                    rearm();
                } catch (Exception error) {
                    throw failed(graph, error);
                }
            }
            interrupted = false;
            if (cancelled.getAsBoolean()) {
                throw interruptedRun(graph);
            }
            running = true;
        }
    }

    private static InterruptedRun interruptedRun(String graph) {
        return new InterruptedRun("graph '" + graph + "' was interrupted");
    }

    private void checkOpen() {
        synchronized (state) {
            if (closed) {
                throw new EngineException("the engine is closed; load the session again");
            }
        }
    }

    /** Libraries raise many kinds of exceptions with long texts; one line of them reaches the user. */
    private RuntimeException failed(String graph, Throwable error) {
        if (error instanceof EngineException || error instanceof BundleException) {
            return (RuntimeException) error;
        }
        return new EngineException(name + " " + version + " failed on graph '" + graph + "': " + line(error), error);
    }

    /** The first line of an error's message, cut to 300 characters; its kind where it has none. */
    static String line(Throwable error) {
        String text = error.getMessage() == null ? "" : error.getMessage().trim();
        if (text.isEmpty()) {
            return error.getClass().getSimpleName();
        }
        String first = text.split("\\R", 2)[0];
        return first.length() > MESSAGE ? first.substring(0, MESSAGE) : first;
    }
}
