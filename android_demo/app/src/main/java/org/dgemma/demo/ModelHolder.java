package org.dgemma.demo;

import android.content.ComponentCallbacks2;
import android.os.Handler;
import android.os.Looper;
import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.StopReason;
import org.jspecify.annotations.Nullable;

/**
 * The one open model of the process and its chat, which outlive activities: a rotation or a visit to another app
 * changes nothing here. Main thread only; opening and closing happen on a thread of its own, in order, so that two
 * models are never in memory at once.
 */
final class ModelHolder {
    /** Told after anything changed; asks what it needs. */
    interface Observer {
        void onModelChanged();
    }

    enum State { NONE, OPENING, READY, BROKEN }

    /** Steps of older turns are dropped, their text stays. */
    private static final int TURNS_WITH_FRAMES = 6;

    private final Handler main = new Handler(Looper.getMainLooper());
    private final ExecutorService worker = Executors.newSingleThreadExecutor(task -> new Thread(task, "dgemma-open"));
    private final Set<Observer> observers = new LinkedHashSet<>();
    private final List<Turn> turns = new ArrayList<>();
    private final Model.Opener opener;

    private State state = State.NONE;
    private @Nullable File folder;
    private String name = "";
    private @Nullable Model model;
    private @Nullable Problem problem;
    /** Of the model, until its terminal call arrives here; while there is one the model takes no other. */
    private @Nullable Run active;
    /** Waits for the model to be opened, or for a run that was stopped to end. */
    private @Nullable Turn pending;
    private @Nullable GenerateOptions pendingOptions;
    private boolean fresh = true;
    /** Counts openings; what an older one reports is stale. */
    private int opening;

    ModelHolder(Model.Opener opener) {
        this.opener = opener;
    }

    void observe(Observer observer) {
        observers.add(observer);
    }

    void forget(Observer observer) {
        observers.remove(observer);
    }

    State state() {
        return state;
    }

    @Nullable File folder() {
        return folder;
    }

    /** Null unless READY. */
    @Nullable Model model() {
        return model;
    }

    @Nullable Problem problem() {
        return problem;
    }

    List<Turn> turns() {
        return Collections.unmodifiableList(turns);
    }

    boolean running() {
        return !turns.isEmpty() && turns.get(turns.size() - 1).running();
    }

    /** Tokens that the model holds; 0 for a new chat. */
    int used() {
        Model.Summary last = fresh || turns.isEmpty() ? null : turns.get(turns.size() - 1).summary();
        return last == null ? 0 : last.used;
    }

    void dismissProblem() {
        problem = null;
        changed();
    }

    /** Open a bundle instead of what is open; the chat begins anew. */
    void open(File bundle) {
        release();
        turns.clear();
        problem = null;
        load(bundle);
    }

    /** Say that there is nothing to open, and why. */
    void broken(DgemmaException error) {
        problem = new Problem(Problem.Kind.BUNDLE, error.getMessage());
        state = State.BROKEN;
        changed();
    }

    private void load(File bundle) {
        folder = bundle;
        state = State.OPENING;
        int number = ++opening;
        worker.execute(() -> {
            try {
                Model opened = opener.open(bundle);
                main.post(() -> opened(number, opened));
            } catch (RuntimeException | LinkageError | OutOfMemoryError error) {
                DgemmaException told = typed(error);
                main.post(() -> refused(number, told));
            }
        });
        changed();
    }

    private void opened(int number, Model ready) {
        if (number != opening) {
            worker.execute(ready::close);
            return;
        }
        model = ready;
        name = ready.name();
        state = State.READY;
        runPending();
        changed();
    }

    private void runPending() {
        Turn turn = pending;
        if (turn != null && pendingOptions != null && model != null) {
            pending = null;
            run(model, turn, pendingOptions);
        }
    }

    private void refused(int number, DgemmaException error) {
        if (number == opening) {
            failPending();
            broken(error);
        }
    }

    /** Name of the model that answers; of the one that was put aside where it is to be opened again. */
    String name() {
        return name;
    }

    /** Ask; the model is opened again first where it was put aside. Does nothing while another run is on. */
    void send(String prompt, GenerateOptions options) {
        File bundle = folder;
        if (running() || bundle == null || state == State.BROKEN) {
            return;
        }
        problem = null;
        Turn turn = new Turn(prompt);
        turns.add(turn);
        if (turns.size() > TURNS_WITH_FRAMES) {
            turns.get(turns.size() - 1 - TURNS_WITH_FRAMES).dropFrames();
        }
        if (model != null && active == null) {
            run(model, turn, options);
        } else {
            pending = turn;
            pendingOptions = options;
            if (state == State.NONE) {
                load(bundle);
            }
        }
        changed();
    }

    private void run(Model ready, Turn turn, GenerateOptions options) {
        Run run = new Run(turn);
        active = run;
        try {
            ready.start(turn.prompt, options.continued(options.continued && !fresh), run);
            fresh = false;
        } catch (RuntimeException | LinkageError | OutOfMemoryError error) {
            active = null;
            ended(turn, typed(error));
        }
    }

    /** End the run, whether it has begun or not; harmless when repeated or when none is on. */
    void stop() {
        if (!running()) {
            return;
        }
        Turn turn = turns.get(turns.size() - 1);
        turn.stopping();
        if (turn == pending) {
            pending = null;
            turn.done(new Model.Summary("", "", 0, 0, StopReason.CANCELLED, 0, 0, 0));
        } else if (model != null) {
            model.cancel();
        }
        changed();
    }

    /** Forget the chat; a run that is on ends. */
    void newChat() {
        stop();
        turns.clear();
        fresh = true;
        problem = null;
        changed();
    }

    /** Show a chat that an earlier process had. */
    void restore(List<Turn> earlier) {
        if (turns.isEmpty()) {
            turns.addAll(earlier);
            changed();
        }
    }

    /** Put the model aside: a run ends, memory is freed, the chat stays to be read. The next message opens it again. */
    void release() {
        opening++;
        fresh = true;
        failPending();
        Model old = model;
        model = null;
        active = null;
        state = State.NONE;
        for (Turn turn : turns) {
            turn.forget();
        }
        if (old != null) {
            old.cancel();
            worker.execute(old::close);
        }
        changed();
    }

    /** React to {@link ComponentCallbacks2#onTrimMemory}: when memory is about to run out, free the model. */
    @SuppressWarnings("deprecation") // Android before 14 sends the levels.
    void trim(int level) {
        boolean critical = level == ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL
                || level >= ComponentCallbacks2.TRIM_MEMORY_MODERATE;
        if (critical && (model != null || state == State.OPENING)) {
            release();
            problem = new Problem(Problem.Kind.MEMORY, "");
            changed();
        }
    }

    /** Run something after what is being opened or closed, off the main thread. */
    void afterwards(Runnable task) {
        worker.execute(task);
    }

    private void failPending() {
        if (pending != null) {
            pending.failed();
            pending = null;
        }
    }

    private void ended(Turn turn, DgemmaException error) {
        turn.failed();
        problem = new Problem(Problem.kindOf(error), error.getMessage());
        changed();
    }

    private void changed() {
        for (Observer observer : new ArrayList<>(observers)) {
            observer.onModelChanged();
        }
    }

    static DgemmaException typed(Throwable error) {
        if (error instanceof DgemmaException) {
            return (DgemmaException) error;
        }
        String what = error instanceof OutOfMemoryError ? "memory ran out; close other apps or choose a smaller bundle"
                : error.toString().replace('\n', ' ');
        return new EngineException(what, error);
    }

    /** Brings what the model's thread reports to the main thread. */
    private final class Run implements Model.Listener {
        private final Turn turn;

        Run(Turn turn) {
            this.turn = turn;
        }

        @Override
        public void onFrame(Frame frame) {
            main.post(() -> {
                if (turn.running()) {
                    turn.add(frame);
                    changed();
                }
            });
        }

        @Override
        public void onDone(Model.Summary summary) {
            main.post(() -> end(() -> turn.done(summary)));
        }

        @Override
        public void onFailed(DgemmaException error) {
            main.post(() -> end(() -> ended(turn, error)));
        }

        /** Stale when the model was put aside meanwhile. */
        private void end(Runnable tell) {
            if (active != this) {
                return;
            }
            active = null;
            if (turn.running()) {
                tell.run();
            }
            runPending();
            changed();
        }
    }
}
