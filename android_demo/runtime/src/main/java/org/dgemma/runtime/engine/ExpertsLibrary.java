package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.io.File;
import org.dgemma.runtime.EngineException;
import org.jspecify.annotations.Nullable;

/**
 * The library that gives ONNX Runtime the operator of routed experts, which quantized mixtures of experts need: {@code
 * libdgemma_experts.so}, built from {@code runtime/native/onnx}.
 *
 * <p>Its file is named by {@link org.dgemma.runtime.SessionOptions#expertsLibrary}, or by the system property {@link
 * #PROPERTY}; otherwise it is looked for in the folders of {@code java.library.path}, and on Android among the app's native
 * libraries.
 */
final class ExpertsLibrary {
    static final String PROPERTY = "dgemma.experts.library";
    private static final String NAME = "dgemma_experts";
    private static final String CURE = "; python -m dgemma.runtime.native builds it and prints its path, to be given with -D"
            + PROPERTY + "=PATH or in code (expertsLibrary); an Android app packs it";

    private ExpertsLibrary() {}

    /**
     * Make the operator known to a session's options, which are closed on failure.
     *
     * @param given the library's file, null to look for it
     * @param model the graph that needs it, for messages
     * @throws EngineException the library is missing or cannot be loaded
     */
    static void register(OrtSession.SessionOptions options, @Nullable File given, File model) {
        String path = null;
        try {
            path = path(given, model);
            options.registerCustomOpLibrary(path);
        } catch (OrtException error) {
            options.close();
            throw new EngineException(model + ": its experts' library " + path + " cannot be loaded ("
                    + AbstractEngine.line(error) + ")" + CURE, error);
        } catch (RuntimeException error) {
            options.close();
            throw error;
        }
    }

    private static String path(@Nullable File given, File model) {
        String property = System.getProperty(PROPERTY, "");
        File named = given != null || property.isEmpty() ? given : new File(property);
        if (named != null) {
            if (!named.isFile()) {
                throw new EngineException(model + ": its experts' library " + named + " is not a file" + CURE);
            }
            return named.getAbsolutePath();
        }
        String file = System.mapLibraryName(NAME);
        for (String folder : System.getProperty("java.library.path", "").split(File.pathSeparator)) {
            File found = new File(folder, file);
            if (!folder.isEmpty() && found.isFile()) {
                return found.getAbsolutePath();
            }
        }
        try {
            System.loadLibrary(NAME); // Android: of the app; what was loaded is found by its name alone
            return file;
        } catch (UnsatisfiedLinkError error) {
            throw new EngineException(
                    model + ": is a quantized mixture of experts, which needs " + file + CURE, error);
        }
    }
}
