package org.dgemma.runtime.engine;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.dgemma.runtime.EngineException;
import org.jspecify.annotations.Nullable;

/**
 * The folder with Qualcomm's libraries: the provider that ONNX Runtime loads, and what that opens for the NPU, which is of one
 * release of QAIRT. Nothing here loads them.
 */
final class QnnLibraries {
    static final String PROPERTY = "dgemma.qnn.libraries";
    static final String CURE = "an Android app packs com.qualcomm.qti:onnxruntime-android-qnn and com.qualcomm.qti:qnn-runtime "
            + "with jniLibs.useLegacyPackaging and gives nativeLibraryDir to Npu.of; a desktop JVM takes -D" + PROPERTY
            + "=FOLDER of Python's onnxruntime_qnn; or use target cpu";

    private static final Pattern RELEASE = Pattern.compile("AISW_VERSION: (\\d+\\.\\d+\\.\\d+)");
    private static final int PIECE = 1 << 20;
    private static final int OVERLAP = 64;

    /** What ONNX Runtime registers, and what that opens. */
    final File provider;
    final File backend;

    private QnnLibraries(File folder) {
        provider = new File(folder, System.mapLibraryName("onnxruntime_providers_qnn")).getAbsoluteFile();
        backend = new File(folder, windows() ? "QnnHtp.dll" : "libQnnHtp.so").getAbsoluteFile();
    }

    /** Of the folder that was given, or that the system property names; null where there is none. */
    static @Nullable QnnLibraries in(@Nullable File given) {
        String property = System.getProperty(PROPERTY, "");
        File folder = given != null || property.isEmpty() ? given : new File(property);
        return folder == null ? null : new QnnLibraries(folder);
    }

    /** The first that is not there; null where both are. */
    @Nullable File missing() {
        return !provider.isFile() ? provider : !backend.isFile() ? backend : null;
    }

    /**
     * Check that contexts can be opened with these libraries.
     *
     * @param compiled the release of QAIRT that compiled them; its first two numbers count
     * @param where the bundle, for messages
     * @return what could not be checked, or null
     * @throws EngineException the libraries are of another release
     */
    @Nullable String check(String compiled, Object where) {
        String own = release(backend);
        if (own == null) {
            return backend + " does not tell its release of QAIRT; the contexts of " + where + " need " + compiled;
        }
        if (!minor(own).equals(minor(compiled))) {
            throw new EngineException(where + ": its contexts were compiled with QAIRT " + compiled + ", and " + backend
                    + " has " + own + "; use com.qualcomm.qti:qnn-runtime of QAIRT " + minor(compiled)
                    + ", or export the bundle again with the onnxruntime-qnn of QAIRT " + minor(own));
        }
        return null;
    }

    /** As the library's own text has it; null where it has none. */
    static @Nullable String release(File library) {
        byte[] piece = new byte[PIECE];
        int kept = 0;
        try (InputStream in = new FileInputStream(library)) {
            for (int n = in.read(piece, 0, PIECE); n >= 0; n = in.read(piece, kept, PIECE - kept)) {
                int length = kept + n;
                Matcher found = RELEASE.matcher(new String(piece, 0, length, StandardCharsets.ISO_8859_1));
                if (found.find()) {
                    return found.group(1);
                }
                kept = Math.min(OVERLAP, length);
                System.arraycopy(piece, length - kept, piece, 0, kept);
            }
        } catch (IOException error) {
            throw new EngineException(library + ": cannot be read; check its permissions", error);
        }
        return null;
    }

    private static String minor(String release) {
        String[] numbers = release.split("\\.");
        return numbers.length < 2 ? release : numbers[0] + "." + numbers[1];
    }

    private static boolean windows() {
        return System.getProperty("os.name", "").startsWith("Windows");
    }
}
