package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.bundle;
import static org.dgemma.runtime.engine.Fixtures.object;
import static org.dgemma.runtime.engine.Fixtures.refused;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.net.URL;
import java.net.URLClassLoader;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.SessionOptions;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Which engine runs, and what is said where none does. */
public class EnginesTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private Bundle changed(String name, Consumer<Map<String, Object>> manifest) throws Exception {
        return Fixtures.changed(bundle(name), folder.newFolder().toPath(), path -> {}, manifest);
    }

    @Test
    public void theOneAskedForElseTheFirstThatIsThere() throws Exception {
        Bundle bundle = Bundle.open(bundle("tiny"));
        assertEquals("onnx", Engines.choose(bundle, null));
        assertEquals("executorch", Engines.choose(bundle, "executorch"));
        Bundle without = changed("tiny", values -> object(values.get("graphs")).remove("onnx"));
        assertEquals("executorch", Engines.choose(without, null));
        refused(() -> Engines.choose(without, "onnx"), "was exported without engine 'onnx' (it has: executorch)");
        refused(() -> Engines.choose(bundle, "tflite"), "unknown engine 'tflite'; choose one of onnx, executorch");
    }

    @Test
    public void aLibraryThatIsTooOldIsRefusedWithACure() throws Exception {
        Bundle bundle = changed("tiny-w8", values -> object(values.get("engines")).put("onnx", "1.30.0"));
        refused(() -> Engines.open(bundle, SessionOptions.DEFAULT), "onnxruntime 1.29.0 is older than 1.30.0",
                "com.microsoft.onnxruntime:onnxruntime-android 1.30.0 or newer");
        assertTrue(Engines.compare("1.9.0", "1.10") < 0);
        assertEquals(0, Engines.compare("1.32.0+cpu", "1.32.0"));
        assertTrue(Engines.compare("1.32", "1.32.0") < 0);
        assertTrue(Engines.compare("1.32.1rc1", "1.32.0") > 0);
    }

    /** The library without its engines, in a class loader of its own: what an app sees that forgot the dependency. */
    @Test
    public void withoutAnEngineOnTheClassPathTheCureNamesOne() throws Exception {
        List<URL> path = new ArrayList<>();
        for (String part : System.getProperty("java.class.path").split(File.pathSeparator)) {
            if (!part.contains("onnxruntime") && !part.contains("executorch-stubs")) {
                path.add(new File(part).toURI().toURL());
            }
        }
        try (URLClassLoader loader = new URLClassLoader(path.toArray(new URL[0]), null)) {
            Class<?> engines = loader.loadClass(Engines.class.getName());
            assertFalse((Boolean) engines.getMethod("isPresent", String.class).invoke(null, "onnx"));
            Object other = loader.loadClass(Bundle.class.getName()).getMethod("open", File.class).invoke(null, bundle("tiny"));
            for (String asked : new String[] {null, "onnx"}) {
                try {
                    engines.getMethod("choose", other.getClass(), String.class).invoke(null, other, asked);
                    throw new AssertionError("nothing was refused");
                } catch (java.lang.reflect.InvocationTargetException error) {
                    String text = error.getCause().getMessage();
                    assertTrue(text, text.contains("is on the class path; add com.microsoft")
                            || text.contains("is not on the class path; add com.microsoft"));
                    assertTrue(text, text.contains("onnxruntime-android 1.23.2 or newer"));
                }
            }
        }
    }
}
