package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.io.Writer;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import org.junit.rules.Timeout;

/**
 * Mutated bundles give a Bundle or a BundleException, nothing else.
 *
 * <p>With {@code -Ddgemma.fuzz.out=FILE} every manifest and its verdict are written there, a JSON line each, for
 * {@code tests/bundles/cross_check.py}, which asks the Python runtime.
 */
public class BundleFuzzTest {
    private static final int STRUCTURAL = 6_000;
    private static final int BYTES = 3_000;
    private static final int FILES = 1_000;
    /** What each check says; every one must have refused something. */
    private static final String[] CHECKS = {
        "is not a manifest", "digest differs", "is newer than", "unknown key", "no key", "must be an object",
        "must be a list", "must be a string", "must be an integer of 32 bits", "must be an integer of 64 bits",
        "must be a finite number", "must be a positive integer", "layer_types must name", "must be a multiple of",
        "head dimensions must be even", "must be at least 2", "must lie in the vocabulary", "temperatures must satisfy",
        "with K between", "do not fit together", "leaves the bundle", "is missing", "bytes instead of",
        "content differs", "graph file", "tokenizer '", "is a link"};

    @Rule
    public final TemporaryFolder temporary = new TemporaryFolder();

    @Rule
    public final Timeout timeout = Timeout.seconds(180);

    private final Random random = new Random(7);
    private final Map<String, Integer> fired = new HashMap<>();
    private BundleRecipes corpus;
    private Path folder;
    private int opened;
    private int refused;

    @Before
    public void writeBase() throws Exception {
        corpus = new BundleRecipes();
        folder = temporary.getRoot().toPath().resolve("b.dgemma");
        corpus.writeFiles(folder);
    }

    @Test
    public void aBundleOrABundleException() throws Exception {
        String out = System.getProperty("dgemma.fuzz.out");
        try (Writer verdicts = out == null ? null : Files.newBufferedWriter(new File(out).toPath())) {
            for (int i = 0; i < STRUCTURAL; i++) {
                Map<String, Object> manifest = corpus.manifest();
                for (int changes = 1 + random.nextInt(2); changes > 0; changes--) {
                    mutate(manifest);
                }
                open(signed(manifest), verdicts);
            }
            for (int i = 0; i < BYTES; i++) {
                open(damaged(signed(corpus.manifest())), verdicts);
            }
        }
        for (int i = 0; i < FILES; i++) {
            damageAFile();
        }
        assertEquals(STRUCTURAL + BYTES + FILES, opened + refused);
        assertTrue("opened " + opened + ", refused " + refused, opened > 100 && refused > 8_000);
        for (String check : CHECKS) {
            assertTrue(check + " never fired: " + fired, fired.getOrDefault(check, 0) > 0);
        }
    }

    private void open(byte[] manifest, Writer verdicts) throws IOException {
        Path path = folder.resolve("manifest.json");
        Files.deleteIfExists(path); // some file systems flush a file that is truncated and written again
        Files.write(path, manifest);
        String says = "";
        try {
            Bundle.open(folder.toFile());
            opened++;
        } catch (BundleException error) {
            refused++;
            says = error.getMessage();
            assertEquals("one line", -1, says.indexOf('\n'));
            for (String check : CHECKS) {
                if (says.contains(check)) {
                    fired.merge(check, 1, Integer::sum);
                }
            }
        }
        if (verdicts != null) {
            Map<String, Object> line = new LinkedHashMap<>();
            line.put("manifest", new String(manifest, StandardCharsets.ISO_8859_1));
            line.put("says", says.replace(folder.toString(), "BUNDLE"));
            verdicts.write(Json.write(line) + "\n");
        }
    }

    private static byte[] signed(Map<String, Object> manifest) throws Exception {
        manifest.put("digest", "");
        try {
            manifest.put("digest", BundleRecipes.digest(manifest));
            return Json.write(manifest).getBytes(StandardCharsets.UTF_8);
        } catch (JsonException error) { // nested too deep to be written: that is for other rounds
            return "{".getBytes(StandardCharsets.UTF_8);
        }
    }

    /** Replaces, deletes, renames or moves one value somewhere in the tree. */
    private void mutate(Map<String, Object> manifest) {
        List<List<Object>> paths = new ArrayList<>();
        walk(manifest, new ArrayList<>(), paths);
        List<Object> path = paths.get(random.nextInt(paths.size()));
        Object key = path.get(path.size() - 1);
        switch (random.nextInt(6)) {
            case 0:
                BundleRecipes.change(manifest, path, null, true);
                break;
            case 1:
                Object value = BundleRecipes.change(manifest, path, null, !(key instanceof Long));
                List<Object> renamed = new ArrayList<>(path.subList(0, path.size() - 1));
                renamed.add(key instanceof Long ? key : text());
                BundleRecipes.change(manifest, renamed, value, false);
                break;
            case 2:
                Object other = at(manifest, paths.get(random.nextInt(paths.size())));
                BundleRecipes.change(manifest, path, Json.parse(Json.write(other)), false);
                break;
            default:
                BundleRecipes.change(manifest, path, value(2), false);
        }
    }

    private static void walk(Object value, List<Object> path, List<List<Object>> paths) {
        if (!path.isEmpty()) {
            paths.add(path);
        }
        if (value instanceof Map) {
            BundleRecipes.object(value).forEach((key, child) -> walk(child, with(path, key), paths));
        } else if (value instanceof List) {
            for (int i = 0; i < ((List<?>) value).size(); i++) {
                walk(((List<?>) value).get(i), with(path, (long) i), paths);
            }
        }
    }

    private static List<Object> with(List<Object> path, Object key) {
        List<Object> longer = new ArrayList<>(path);
        longer.add(key);
        return longer;
    }

    private static Object at(Object value, List<Object> path) {
        for (Object key : path) {
            value = key instanceof Long ? ((List<?>) value).get(((Long) key).intValue()) : ((Map<?, ?>) value).get(key);
        }
        return value;
    }

    private Object value(int depth) {
        switch (random.nextInt(depth > 0 ? 9 : 7)) {
            case 0:
                return null;
            case 1:
                return random.nextBoolean();
            case 2:
                return (long) random.nextInt(10) - 2;
            case 3:
                long[] large = {Integer.MAX_VALUE, Integer.MIN_VALUE, 1L << 31, Long.MAX_VALUE, Long.MIN_VALUE, 4097, 1025};
                return random.nextInt(8) == 0 ? BigInteger.ONE.shiftLeft(200 << random.nextInt(4)) : large[random.nextInt(7)];
            case 4:
                return new double[] {0.0, -0.0, 0.5, 1e16, 1e-7, 5e-324, Double.MAX_VALUE, -3.0}[random.nextInt(8)];
            case 5:
            case 6:
                return text();
            case 7:
                List<Object> elements = new ArrayList<>();
                for (int i = random.nextInt(4); i > 0; i--) {
                    elements.add(value(depth - 1));
                }
                return elements;
            default:
                return new LinkedHashMap<>(Collections.singletonMap(text(), value(depth - 1)));
        }
    }

    private String text() {
        List<String> texts = Arrays.asList("", ".", "..", "/", "../outside", "onnx/encode.bin", "tokenizer.model", "onnx",
                "exact", "topk:3", "topk:4096", "topk:1\u0661", "full_attention", "sliding_attention", "1", "size", "S",
                "files", "soft", "é", "\ud83d\ude00", "\uffff", "a\nb", "a\u0000b", "C:x", "a\\b", "\u2028", "x/./y",
                String.join("", Collections.nCopies(300, "n")), "manifest.json", "onnx/", "./onnx//encode.bin");
        return texts.get(random.nextInt(texts.size()));
    }

    /** Bytes flipped, cut, doubled or inserted, and brackets or digits without end. */
    private byte[] damaged(byte[] good) {
        String text = new String(good, StandardCharsets.ISO_8859_1);
        int at = random.nextInt(text.length());
        int until = Math.min(text.length(), at + 1 + random.nextInt(20));
        String unit = new String[] {"[", "{\"a\":", "9", " ", ",", "\"", "\u00ff", "\\u", "1e9", "NaN,", "0.", "]}"}[random.nextInt(12)];
        String middle;
        switch (random.nextInt(5)) {
            case 0:
                middle = (char) (text.charAt(at) ^ 1 << random.nextInt(8)) + text.substring(at + 1, until);
                break;
            case 1:
                middle = "";
                break;
            case 2:
                middle = text.substring(at, until) + text.substring(at, until);
                break;
            case 3:
                return text.substring(0, at).getBytes(StandardCharsets.ISO_8859_1);
            default:
                int count = random.nextInt(20) == 0 ? 20_000 : 1 + random.nextInt(3);
                middle = String.join("", Collections.nCopies(count, unit)) + text.substring(at, until);
        }
        return (text.substring(0, at) + middle + text.substring(until)).getBytes(StandardCharsets.ISO_8859_1);
    }

    private void damageAFile() throws Exception {
        Map<String, Object> manifest = corpus.manifest();
        List<String> names = new ArrayList<>(BundleRecipes.object(manifest.get("files")).keySet());
        Path path = folder.resolve(names.get(random.nextInt(names.size())));
        byte[] good = Files.readAllBytes(path);
        byte[] bad = Arrays.copyOf(good, random.nextBoolean() ? good.length : random.nextInt(2 * good.length));
        if (bad.length > 0) {
            bad[random.nextInt(bad.length)] ^= (byte) random.nextInt(256);
        }
        Files.delete(path);
        int kind = random.nextInt(8);
        if (kind == 0) {
            Files.createDirectory(path);
        } else if (kind == 1) {
            Files.createSymbolicLink(path, folder.resolve("manifest.json"));
        } else if (kind > 2) {
            Files.write(path, bad);
        }
        boolean same = kind > 2 && Arrays.equals(good, bad);
        int before = opened;
        open(signed(manifest), null);
        assertEquals("opens exactly when nothing is damaged", same ? 1 : 0, opened - before);
        Files.deleteIfExists(path);
        Files.write(path, good);
    }
}
