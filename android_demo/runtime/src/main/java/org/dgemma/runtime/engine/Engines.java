package org.dgemma.runtime.engine;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Placement;
import org.dgemma.runtime.SessionOptions;
import org.jspecify.annotations.Nullable;

/** Engines by name. Their libraries are loaded only when an engine is asked for. */
public final class Engines {
    public static final String ONNX = "onnx";
    public static final String EXECUTORCH = "executorch";
    /** In order of preference. */
    public static final List<String> NAMES = Collections.unmodifiableList(Arrays.asList(ONNX, EXECUTORCH));

    private Engines() {}

    /** Whether an engine's library is on the class path; loads nothing. */
    public static boolean isPresent(String engine) {
        try {
            Class.forName(className(engine), false, Engines.class.getClassLoader());
            return true;
        } catch (ClassNotFoundException | LinkageError error) {
            return false;
        }
    }

    /**
     * Name of the engine to run: the one asked for, else the first that is in the bundle and on the class path.
     *
     * @throws EngineException unknown, not in the bundle, or not on the class path.
     */
    public static String choose(Bundle bundle, @Nullable String engine) {
        List<String> inside = new ArrayList<>(NAMES);
        inside.retainAll(bundle.manifest().graphs.keySet());
        if (engine == null) {
            StringBuilder cures = new StringBuilder();
            for (String name : inside) {
                if (isPresent(name)) {
                    return name;
                }
                cures.append(cures.length() == 0 ? "" : ", or ").append(cure(name, lowest(bundle, name)));
            }
            throw new EngineException("no engine of " + bundle.folder() + " is on the class path; "
                    + (cures.length() == 0 ? "export it again" : cures));
        }
        if (!NAMES.contains(engine)) {
            throw new EngineException("unknown engine '" + engine + "'; choose one of " + join(NAMES));
        }
        if (!inside.contains(engine)) {
            String held = inside.isEmpty() ? "none" : join(inside);
            throw new EngineException(bundle.folder() + ": was exported without engine '" + engine + "' (it has: " + held
                    + "); choose one of these");
        }
        if (!isPresent(engine)) {
            throw new EngineException("engine '" + engine + "' is not on the class path; "
                    + cure(engine, lowest(bundle, engine)));
        }
        return engine;
    }

    /**
     * Make the engine of {@link #choose}; its graphs are loaded on first use.
     *
     * @throws EngineException as {@code choose}; also when the library cannot be loaded or is older than the bundle needs, and
     *     when the target cannot be had.
     */
    public static Engine open(Bundle bundle, SessionOptions options) {
        NpuChoice choice = NpuChoice.of(bundle, options);
        String name = choose(bundle, choice.spec == null ? options.engine : ONNX);
        Placement processor = Placement.cpu(name, choice.reason);
        if (name.equals(EXECUTORCH)) { // its Java API does not tell its version; the .pte is checked when it is loaded
            return new ExecuTorchEngine(bundle, options).placed(processor);
        }
        checkVersion(bundle, name, "onnxruntime", OnnxLibrary.version());
        if (choice.spec != null && choice.libraries != null) {
            return NpuEngine.open(bundle, choice.spec, choice.libraries, options);
        }
        return new OnnxEngine(bundle, options).placed(processor);
    }

    static void checkVersion(Bundle bundle, String engine, String library, String version) {
        String lowest = lowest(bundle, engine);
        if (lowest != null && compare(version, lowest) < 0) {
            throw new EngineException(library + " " + version + " is older than " + lowest + ", which the bundle needs; "
                    + cure(engine, lowest));
        }
    }

    /** What to add to a build file, with the lowest version that will do where that is known. */
    static String cure(String engine, @Nullable String lowest) {
        String version = lowest == null ? "" : " " + lowest + " or newer";
        return engine.equals(ONNX)
                ? "add com.microsoft.onnxruntime:onnxruntime-android" + version
                        + " (on a desktop JVM com.microsoft.onnxruntime:onnxruntime)"
                : "add org.pytorch:executorch-android" + version + " (Android only)";
    }

    /** Compare leading integers of versions: 1.32.0+cpu is (1, 32, 0). */
    static int compare(String a, String b) {
        int[] left = release(a);
        int[] right = release(b);
        for (int i = 0; i < Math.max(left.length, right.length); i++) {
            int order = Integer.compare(i < left.length ? left[i] : -1, i < right.length ? right[i] : -1);
            if (order != 0) {
                return order;
            }
        }
        return 0;
    }

    private static int[] release(String version) {
        String[] parts = version.split("\\+", 2)[0].split("\\.");
        int[] numbers = new int[parts.length];
        int count = 0;
        for (String part : parts) {
            String digits = part.replaceFirst("[^0-9].*$", "");
            if (digits.isEmpty() || digits.length() > 9) {
                break;
            }
            numbers[count++] = Integer.parseInt(digits);
        }
        return Arrays.copyOf(numbers, count);
    }

    private static @Nullable String lowest(Bundle bundle, String engine) {
        Map<String, String> lowest = bundle.manifest().engines;
        return lowest.get(engine);
    }

    private static String className(String engine) {
        return engine.equals(ONNX) ? "ai.onnxruntime.OrtEnvironment" : "org.pytorch.executorch.Module";
    }

    private static String join(List<String> names) {
        StringBuilder text = new StringBuilder();
        for (String name : names) {
            text.append(text.length() == 0 ? "" : ", ").append(name);
        }
        return text.toString();
    }
}
