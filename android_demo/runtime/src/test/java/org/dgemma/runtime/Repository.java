package org.dgemma.runtime;

import static org.junit.Assume.assumeTrue;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Map;
import org.dgemma.format.Json;

/** Files of the repository that tests read; the property dgemma.root names it. */
final class Repository {
    private Repository() {}

    static File file(String path) {
        return new File(System.getProperty("dgemma.root", "../.."), path);
    }

    /** A bundle under build/; the test is skipped, and says so, where it was not made. */
    static File bundle(String name) {
        File bundle = file("build/" + name + ".dgemma");
        assumeTrue(bundle + " was not made; run `make tiny` first", new File(bundle, "manifest.json").isFile());
        return bundle;
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> json(String path) throws IOException {
        byte[] bytes = Files.readAllBytes(file(path).toPath());
        return (Map<String, Object>) Json.parse(new String(bytes, StandardCharsets.UTF_8));
    }
}
