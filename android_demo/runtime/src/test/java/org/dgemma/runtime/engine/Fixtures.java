package org.dgemma.runtime.engine;

import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Stream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;
import org.dgemma.format.Json;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Manifest.TensorSpec;
import org.dgemma.runtime.Repository;

/** Bundles, tensors and recordings that the engines' tests share. */
final class Fixtures {
    private static final Map<String, DType> DTYPES = new HashMap<>();

    static {
        for (DType dtype : DType.values()) {
            DTYPES.put(dtype.word, dtype);
        }
    }

    private Fixtures() {}

    static File bundle(String name) {
        return Repository.bundle(name);
    }

    /** A copy of a bundle whose files and manifest were changed, with hashes and digest that fit again. */
    static Bundle changed(File source, Path to, Consumer<Path> files, Consumer<Map<String, Object>> manifest)
            throws Exception {
        try (Stream<Path> paths = Files.walk(source.toPath())) {
            for (Path path : (Iterable<Path>) paths::iterator) {
                Path target = to.resolve(source.toPath().relativize(path).toString());
                Files.copy(path, target, StandardCopyOption.REPLACE_EXISTING);
            }
        }
        files.accept(to);
        Map<String, Object> values = object(Json.parse(Files.readAllBytes(to.resolve("manifest.json"))));
        for (Map.Entry<String, Object> file : object(values.get("files")).entrySet()) {
            byte[] content = Files.readAllBytes(to.resolve(file.getKey()));
            Map<String, Object> entry = new LinkedHashMap<>();
            entry.put("size", (long) content.length);
            entry.put("sha256", sha256(content));
            file.setValue(entry);
        }
        manifest.accept(values);
        values.remove("digest");
        values.put("digest", sha256(Json.canonical(values)));
        Files.write(to.resolve("manifest.json"), Json.write(values).getBytes("UTF-8"));
        return Bundle.open(to.toFile());
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(Object value) {
        return (Map<String, Object>) value;
    }

    static String sha256(byte[] content) {
        MessageDigest digest = Seal.sha256();
        digest.update(content);
        return Seal.hex(digest);
    }

    /** Zeros of the shapes in the manifest, each named dimension of the size given for it. */
    static Map<String, Tensor> zeros(Iterable<TensorSpec> specs, Map<String, Integer> dims) {
        Map<String, Tensor> found = new LinkedHashMap<>();
        for (TensorSpec spec : specs) {
            long[] shape = new long[spec.shape.size()];
            for (int i = 0; i < shape.length; i++) {
                Object size = spec.shape.get(i);
                shape[i] = size instanceof String ? dims.get(size) : ((Number) size).longValue();
            }
            DType dtype = DTYPES.get(spec.dtype);
            found.put(spec.name, Tensor.zeros(dtype, shape));
        }
        return found;
    }

    static Map<String, Integer> dims(int s, int c) {
        Map<String, Integer> dims = new HashMap<>();
        dims.put("S", s);
        dims.put("L", s);
        dims.put("C", c);
        return dims;
    }

    /** The call must fail with an EngineException of one line that holds each of these. */
    static EngineException refused(Runnable call, String... parts) {
        try {
            call.run();
        } catch (EngineException error) {
            assertFalse(error.getMessage(), error.getMessage().contains("\n"));
            for (String part : parts) {
                assertTrue(error.getMessage() + " lacks: " + part, error.getMessage().contains(part));
            }
            return error;
        }
        fail("nothing was refused");
        throw new AssertionError();
    }

    /** Arrays of an .npz among the resources, by name: the bytes of their elements, little-endian, at position 0. */
    static Map<String, ByteBuffer> recording(String name) throws IOException {
        Map<String, ByteBuffer> arrays = new LinkedHashMap<>();
        try (InputStream in = Fixtures.class.getResourceAsStream("/engine/" + name); ZipInputStream zip = new ZipInputStream(in)) {
            for (ZipEntry entry = zip.getNextEntry(); entry != null; entry = zip.getNextEntry()) {
                byte[] bytes = all(zip);
                int start = 10 + (bytes[8] & 255) + ((bytes[9] & 255) << 8);
                ByteBuffer data = ByteBuffer.allocateDirect(bytes.length - start).order(ByteOrder.LITTLE_ENDIAN);
                data.put(bytes, start, bytes.length - start).flip();
                arrays.put(entry.getName().replace(".npy", ""), data);
            }
        }
        return arrays;
    }

    static int[] ints(ByteBuffer longs) {
        int[] values = new int[longs.capacity() / 8];
        for (int i = 0; i < values.length; i++) {
            values[i] = Math.toIntExact(longs.getLong(8 * i));
        }
        return values;
    }

    private static byte[] all(InputStream in) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        byte[] buffer = new byte[1 << 16];
        for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
            out.write(buffer, 0, n);
        }
        return out.toByteArray();
    }
}
