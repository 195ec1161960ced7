package org.dgemma.demo;

import android.content.Intent;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import org.dgemma.runtime.Target;
import org.dgemma.runtime.UsageException;
import org.dgemma.runtime.bench.Bench;
import org.jspecify.annotations.Nullable;

/**
 * A benchmark asked for by an intent, such as adb's: {@code am start -a org.dgemma.demo.BENCHMARK -n
 * org.dgemma.demo/.BenchmarkActivity --es bundle NAME --ei seconds 60}. Extras: {@code bundle} (a name in the list; the
 * built-in one by default), {@code seconds} (30), {@code engine} (the library's choice), {@code threads} (0, the
 * engine's choice), {@code target} (auto, cpu or qnn). Writes {@code bench.json} to the app's external files, or {@code bench.json.error} with one line;
 * whole files only, and those of an earlier run are deleted first.
 */
final class Headless {
    static final String ACTION = "org.dgemma.demo.BENCHMARK";
    static final String RESULT = "bench.json";
    static final String ERROR = "bench.json.error";

    private final DemoApp app;
    private final String bundle;
    private final int seconds;
    private final @Nullable String engine;
    private final int threads;
    private final String target;

    Headless(DemoApp app, Intent intent) {
        this.app = app;
        String name = intent.getStringExtra("bundle");
        bundle = name == null ? "" : name;
        seconds = intent.getIntExtra("seconds", (int) DemoApp.BENCH_SECONDS);
        engine = intent.getStringExtra("engine");
        threads = intent.getIntExtra("threads", 0);
        String place = intent.getStringExtra("target");
        target = place == null ? Target.AUTO.word() : place;
    }

    void start() {
        BenchmarkRun running = app.benchmark();
        if (running != null && !running.ended()) {
            write(ERROR, "a benchmark is running already; wait for it, or end the app with am force-stop");
            return;
        }
        for (String name : new String[] {RESULT, ERROR}) {
            Bundles.delete(new File(app.getExternalFilesDir(null), name));
        }
        BenchmarkRun run = new BenchmarkRun(this::bench, new DeviceInfo(app), bundle);
        run.onEnd(() -> written(run));
        app.measure(run);
    }

    private Bench bench() {
        File folder = BuiltIn.unpack(app.getAssets(), app.bundles().builtInFolder());
        if (!bundle.isEmpty()) {
            Bundles.Entry entry = app.bundles().named(bundle);
            folder = entry == null ? null : entry.folder;
        }
        if (folder == null) {
            StringBuilder known = new StringBuilder();
            for (Bundles.Entry entry : app.bundles().list()) {
                known.append(known.length() == 0 ? "" : ", ").append(entry.folder.getName());
            }
            throw new UsageException(
                    "no bundle " + bundle + " on this device; choose one of " + known + ", or push it first");
        }
        return app.bench(folder, seconds, engine, threads, Target.of(target));
    }

    private void written(BenchmarkRun run) {
        if (run.json() != null) {
            write(RESULT, run.json());
        } else {
            write(ERROR, run.problem() == null ? "cancelled on the device" : run.problem());
        }
    }

    /** Where there is no shared storage nobody could read it either. */
    private void write(String name, String text) {
        File folder = app.getExternalFilesDir(null);
        File temporary = new File(folder, "." + name);
        try (OutputStream out = new FileOutputStream(temporary)) {
            out.write((text.trim() + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException error) {
            return;
        }
        if (!temporary.renameTo(new File(folder, name))) {
            Bundles.delete(temporary);
        }
    }
}
