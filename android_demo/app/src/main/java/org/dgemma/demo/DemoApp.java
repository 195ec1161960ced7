package org.dgemma.demo;

import android.app.Application;
import android.os.Handler;
import android.os.Looper;
import java.io.File;
import java.util.Collections;
import java.util.List;
import java.util.function.Consumer;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.BundleException;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.Target;
import org.dgemma.runtime.bench.Bench;
import org.jspecify.annotations.Nullable;

/** Owns what outlives activities: the model and its chat, a copy, a benchmark. */
public final class DemoApp extends Application {
    /** How long a benchmark measures when nobody says. */
    static final double BENCH_SECONDS = 30;

    private ModelHolder holder;
    private Bundles bundles;
    private Settings settings;
    private @Nullable BundleCopy copy;
    private @Nullable BenchmarkRun benchmark;
    private List<Turn> restored = Collections.emptyList();
    private boolean started;

    @Override
    public void onCreate() {
        super.onCreate();
        PhoneNpu.prepare(this);
        holder = new ModelHolder(SessionModel.opener(options()));
        bundles = new Bundles(this);
        settings = new Settings(this);
    }

    /** On the phone's NPU where a bundle has contexts for it and the app has the libraries. */
    SessionOptions options() {
        return SessionOptions.DEFAULT.cacheFolder(getCacheDir()).npu(PhoneNpu.of(this));
    }

    ModelHolder holder() {
        return holder;
    }

    Bundles bundles() {
        return bundles;
    }

    Settings settings() {
        return settings;
    }

    @Nullable BundleCopy copy() {
        return copy;
    }

    void copy(@Nullable BundleCopy value) {
        copy = value;
    }

    @Nullable BenchmarkRun benchmark() {
        return benchmark;
    }

    /** Measure once the open model is put aside: two at once would share memory and cores. */
    void measure(BenchmarkRun run) {
        benchmark = run;
        holder.release();
        holder.afterwards(run::work);
    }

    /** @param engine null for the library's choice; threads 0 for the engine's */
    Bench bench(File folder, double seconds, @Nullable String engine, int threads, Target target) {
        return new Bench(folder, options().engine(engine).threads(threads).target(target), seconds);
    }

    /** For tests: models that misbehave. */
    void opener(Model.Opener opener) {
        holder = new ModelHolder(opener);
    }

    /** Unpack the built-in bundle and open the one that was open last; once in a process. */
    void startUp() {
        if (!started) {
            started = true;
            unpackThen(this::openLast);
        }
    }

    /** Unpack the built-in bundle where that is to do, off the main thread; then go on, on it. */
    private void unpackThen(Consumer<File> next) {
        Handler main = new Handler(Looper.getMainLooper());
        holder.afterwards(() -> {
            try {
                File builtIn = BuiltIn.unpack(getAssets(), bundles.builtInFolder());
                main.post(() -> next.accept(builtIn));
            } catch (RuntimeException error) {
                DgemmaException told = ModelHolder.typed(error);
                main.post(() -> holder.broken(told));
            }
        });
    }

    /** Show a chat of an earlier process once the model is open. */
    void restore(List<Turn> earlier) {
        if (!started) {
            restored = earlier;
        }
    }

    private void openLast(@Nullable File builtIn) {
        Bundles.Entry last = bundles.at(settings.bundle());
        if (last != null) {
            holder.open(last.folder);
        } else if (builtIn != null) {
            holder.open(builtIn);
        } else {
            holder.broken(new BundleException("this app ships no bundle; add one from files or by adb push"));
        }
        holder.restore(restored);
    }

    /** Open another bundle, and again at the next start; the built-in one is repaired first where it was damaged. */
    void choose(Bundles.Entry entry) {
        settings.bundle(entry.folder.getPath());
        if (entry.origin == Bundles.Origin.BUILT_IN) {
            holder.release();
            unpackThen(folder -> holder.open(entry.folder));
        } else {
            holder.open(entry.folder);
        }
    }

    @Override
    public void onTrimMemory(int level) {
        super.onTrimMemory(level);
        holder.trim(level);
    }

    @Override
    @SuppressWarnings("deprecation") // Android before 14 sends the levels.
    public void onLowMemory() {
        super.onLowMemory();
        holder.trim(TRIM_MEMORY_COMPLETE);
    }
}
