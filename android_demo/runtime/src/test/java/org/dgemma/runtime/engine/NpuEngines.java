package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import java.io.File;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.TargetSpec;

/** An NPU's engine whose graphs' sources run on the processor, as `verify`'s "onnx/qnn sources" in Python. */
public final class NpuEngines {
    private NpuEngines() {}

    /**
     * Opens the source that a wrapper was compiled from, without optimizations, which replace 16-bit activations by 8-bit ones;
     * keeps what it was asked for.
     */
    static final class OnProcessor implements NpuProvider {
        final List<File> files = new ArrayList<>();
        final Set<Map<String, String>> entries = new HashSet<>();
        final Set<Map<String, String>> options = new HashSet<>();

        @Override
        public OpenSession open(File model, Map<String, String> entries, Map<String, String> options, int threads)
                throws OrtException {
            files.add(model);
            this.entries.add(entries);
            this.options.add(options);
            File folder = model.getParentFile();
            File source = folder.getName().equals("qnn") ? model : new File(folder.getParentFile(), model.getName());
            return plain(source, threads);
        }
    }

    static OpenSession plain(File model, int threads) throws OrtException {
        OrtSession.SessionOptions made = new OrtSession.SessionOptions();
        made.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL);
        made.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.NO_OPT);
        if (threads > 0) {
            made.setIntraOpNumThreads(threads);
        }
        try {
            return new OpenSession(OnnxLibrary.environment().createSession(model.getPath(), made), made);
        } catch (OrtException error) {
            made.close();
            throw error;
        }
    }

    public static Engine onProcessor(Bundle bundle, int threads) {
        TargetSpec spec = bundle.manifest().targets.values().iterator().next();
        StaticGraphs.Opening opening = new StaticGraphs.Opening(new OnProcessor(), spec.options, true, threads);
        return new NpuEngine(bundle, spec, opening, "onnx/qnn sources (" + spec.chip + ")");
    }

    /** Qualcomm's emulator, on a bundle with contexts of one graph each; {@code libraries} of Python's onnxruntime_qnn. */
    public static Engine emulatedContexts(Bundle bundle, File libraries) {
        TargetSpec spec = bundle.manifest().targets.values().iterator().next();
        QnnLibraries found = QnnLibraries.in(libraries);
        String unchecked = found.check(spec.versions.get("qairt"), bundle.folder());
        if (unchecked != null) {
            throw new AssertionError(unchecked);
        }
        StaticGraphs.Opening opening = new StaticGraphs.Opening(
                new QnnProvider(found, true), QnnProvider.options(found, spec.options), false, 0);
        return new NpuEngine(bundle, spec, opening, "onnx/qnn (emulated contexts)");
    }
}
