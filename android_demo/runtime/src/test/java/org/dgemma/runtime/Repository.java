package org.dgemma.runtime;

import static org.junit.Assume.assumeTrue;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Map;
import org.dgemma.format.Json;

/** Files of the repository that tests read; the property dgemma.root names it. */
public final class Repository {
    private Repository() {}

    public static File file(String path) {
        return new File(System.getProperty("dgemma.root", "../.."), path);
    }

    /**
     * A bundle by its name; tiny-w8, for ONNX, is the one that the Python package ships. The test is skipped, and says so,
     * where another was not made.
     */
    public static File bundle(String name) {
        File bundle = place(name);
        assumeTrue(bundle + " was not made; `make java-test` makes tiny and tiny-npu, `make gate` the others", isMade(name));
        return bundle;
    }

    static boolean isMade(String name) {
        return new File(place(name), "manifest.json").isFile();
    }

    private static File place(String name) {
        return file(name.equals("tiny-w8") ? "src/dgemma/bundles/tiny.dgemma" : "build/" + name + ".dgemma");
    }

    @SuppressWarnings("unchecked")
    public static Map<String, Object> json(String path) throws IOException {
        byte[] bytes = Files.readAllBytes(file(path).toPath());
        return (Map<String, Object>) Json.parse(new String(bytes, StandardCharsets.UTF_8));
    }
}
