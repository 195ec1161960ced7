package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtLoggingLevel;
import org.dgemma.runtime.EngineException;

/** onnxruntime's native library: one environment a process, opened on first use and never closed. */
final class OnnxLibrary {
    private OnnxLibrary() {}

    /** Throws EngineException where the native library cannot be loaded. */
    static OrtEnvironment environment() {
        try {
            return Holder.ENVIRONMENT;
        } catch (LinkageError | RuntimeException error) { // unpacking or linking it; named once, then NoClassDefFoundError
            Throwable cause = error.getCause() == null ? error : error.getCause();
            throw new EngineException("onnxruntime's native library cannot be loaded (" + AbstractEngine.line(cause)
                    + "); " + Engines.cure(Engines.ONNX, null), error);
        }
    }

    static String version() {
        return environment().getVersion();
    }

    private static final class Holder {
        static final OrtEnvironment ENVIRONMENT =
                OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL);
    }
}
