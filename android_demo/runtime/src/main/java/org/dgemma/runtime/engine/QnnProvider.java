package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtEpDevice;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtHardwareDevice.OrtHardwareDeviceType;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import java.io.File;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import org.dgemma.runtime.EngineException;
import org.jspecify.annotations.Nullable;

/** Qualcomm's provider for ONNX Runtime, a library that is registered once a process; no node may run on the processor. */
final class QnnProvider implements NpuProvider {
    /** The oldest ONNX Runtime that it works with. */
    static final String LOWEST = "1.24.1";

    private static final String NAME = "QNN";
    private static @Nullable File registered;

    private final OrtEnvironment environment;
    private final OrtEpDevice device;

    /** Load the library; throws EngineException where it cannot be loaded or finds no NPU. */
    QnnProvider(QnnLibraries libraries, boolean emulated) {
        environment = OnnxLibrary.environment();
        if (Engines.compare(environment.getVersion(), LOWEST) < 0) {
            throw new EngineException("onnxruntime " + environment.getVersion() + " is older than " + LOWEST
                    + ", which target qnn needs; " + Engines.cure(Engines.ONNX, LOWEST));
        }
        try {
            register(environment, libraries.provider);
            device = device(environment, emulated);
        } catch (OrtException | LinkageError error) {
            throw new EngineException(libraries.provider + " cannot be loaded (" + AbstractEngine.line(error) + "); "
                    + QnnLibraries.CURE, error);
        }
    }

    private static synchronized void register(OrtEnvironment environment, File library) throws OrtException {
        if (registered == null) {
            environment.registerExecutionProviderLibrary(NAME, library.getPath());
            registered = library;
        } else if (!registered.equals(library)) {
            throw new EngineException("this process has loaded " + registered + "; use it, or start anew for " + library);
        }
    }

    private static OrtEpDevice device(OrtEnvironment environment, boolean emulated) throws OrtException {
        OrtEpDevice found = null;
        for (OrtEpDevice each : environment.getEpDevices()) {
            // Some Androids list their NPU as a processor; a backend that is not there is refused when a graph is opened.
            boolean npu = each.getDevice().getType() == OrtHardwareDeviceType.NPU;
            if (each.getEpName().equals(NAME) && (found == null || npu && !emulated)) {
                found = each;
            }
        }
        if (found == null) {
            throw new EngineException("onnxruntime-qnn finds no NPU on this machine; use target cpu");
        }
        return found;
    }

    /** Of a session of a source, or with {@code shared} of a wrapper around a context that holds several graphs. */
    static Map<String, String> entries(boolean shared) {
        Map<String, String> entries = new LinkedHashMap<>();
        entries.put("session.disable_cpu_ep_fallback", "1");
        if (shared) {
            entries.put("ep.share_ep_contexts", "1");
        }
        return entries;
    }

    /** @param given by the bundle, for its chip */
    static Map<String, String> options(QnnLibraries libraries, Map<String, String> given) {
        Map<String, String> options = new LinkedHashMap<>();
        options.put("backend_path", libraries.backend.getPath());
        options.putAll(given);
        return options;
    }

    @Override
    public OpenSession open(File model, Map<String, String> entries, Map<String, String> options, int threads)
            throws OrtException {
        OrtSession.SessionOptions made = new OrtSession.SessionOptions();
        try {
            made.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL); // errors arrive as exceptions
            if (threads > 0) {
                made.setIntraOpNumThreads(threads);
            }
            for (Map.Entry<String, String> entry : entries.entrySet()) {
                made.addConfigEntry(entry.getKey(), entry.getValue());
            }
            made.addExecutionProvider(Collections.singletonList(device), options);
            return new OpenSession(environment.createSession(model.getPath(), made), made);
        } catch (OrtException | RuntimeException error) {
            made.close();
            throw error;
        }
    }
}
