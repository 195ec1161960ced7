package org.dgemma.demo;

import android.os.Handler;
import android.os.Looper;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CancellationException;
import org.dgemma.format.Json;
import org.dgemma.runtime.bench.Bench;
import org.jspecify.annotations.Nullable;

/** One benchmark, which goes on when activities go. Made and watched on the main thread. */
final class BenchmarkRun {
    interface Observer {
        void onBenchmarkChanged(BenchmarkRun run);
    }

    /** Makes the protocol's run, off the main thread; may throw what is wrong with bundle or options. */
    interface Maker {
        Bench make();
    }

    private final Handler main = new Handler(Looper.getMainLooper());
    private final Maker maker;
    private final DeviceInfo device;
    private final String name;
    private volatile @Nullable Bench bench;
    private volatile boolean cancelled;
    private @Nullable Observer observer;
    private @Nullable Runnable onEnd;
    private String stage = "";
    private double done;
    private boolean ended;
    private @Nullable Map<String, Object> result;
    private @Nullable String json;
    private @Nullable String problem;

    /** @param name of the bundle */
    BenchmarkRun(Maker maker, DeviceInfo device, String name) {
        this.maker = maker;
        this.device = device;
        this.name = name;
    }

    /** The work itself, on the thread that the caller picks. */
    void work() {
        try {
            Map<String, Object> facts = device.fixed();
            facts.put("before", device.momentary());
            Bench made = maker.make();
            bench = made;
            if (cancelled) {
                throw new CancellationException();
            }
            Map<String, Object> measured = new LinkedHashMap<>(made.run(this::report));
            facts.put("after", device.momentary());
            facts.put("bundle_name", name);
            measured.put("device", facts);
            finish(measured, Json.write(measured), null);
        } catch (CancellationException error) {
            finish(null, null, null);
        } catch (RuntimeException | LinkageError | OutOfMemoryError error) {
            finish(null, null, ModelHolder.typed(error).getMessage());
        }
    }

    private void report(String what, double share) {
        main.post(() -> {
            stage = what;
            done = share;
            told();
        });
    }

    private void finish(@Nullable Map<String, Object> measured, @Nullable String text, @Nullable String line) {
        main.post(() -> {
            result = measured;
            json = text;
            problem = line;
            ended = true;
            if (onEnd != null) {
                onEnd.run();
            }
            told();
        });
    }

    private void told() {
        if (observer != null) {
            observer.onBenchmarkChanged(this);
        }
    }

    void observe(@Nullable Observer who) {
        observer = who;
    }

    void cancel() {
        cancelled = true;
        Bench made = bench;
        if (made != null) {
            made.cancel();
        }
    }

    /** Do this when it has ended, before observers are told; then nobody needs the screen. */
    void onEnd(Runnable then) {
        onEnd = then;
    }

    /** Asked for without a person. */
    boolean headless() {
        return onEnd != null;
    }

    boolean cancelled() {
        return cancelled;
    }

    String name() {
        return name;
    }

    /** What is being done. */
    String stage() {
        return stage;
    }

    /** 0 to 1. */
    double done() {
        return done;
    }

    boolean ended() {
        return ended;
    }

    /** The JSON values; null until it ended well. */
    @Nullable Map<String, Object> result() {
        return result;
    }

    /** The same as text, as dgemma bench --json writes it, with {@code device}. */
    @Nullable String json() {
        return json;
    }

    /** One line; null when nothing is wrong. */
    @Nullable String problem() {
        return problem;
    }
}
