package org.dgemma.runtime;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.dgemma.format.Json;

/** Bundles made from the recipes of {@code tests/bundles/recipes.json}; its README says what the operations do. */
final class BundleRecipes {
    static final Path BUNDLES = new File(System.getProperty("dgemma.root"), "tests/bundles").toPath();

    private static final List<String> LAST = Arrays.asList("manifest", "fill", "pad", "gone", "file", "unlink");
    private static final String MANIFEST = "manifest.json";

    final List<Map<String, Object>> recipes = new ArrayList<>();
    private final String base;
    private final Map<String, Object> files;

    BundleRecipes() throws Exception {
        Map<String, Object> read = object(Json.parse(Files.readAllBytes(BUNDLES.resolve("recipes.json"))));
        files = object(read.get("files"));
        Map<String, Object> entries = new LinkedHashMap<>();
        for (Map.Entry<String, Object> file : files.entrySet()) {
            entries.put(file.getKey(), entry(((String) file.getValue()).getBytes(StandardCharsets.UTF_8)));
        }
        Map<String, Object> manifest = object(read.get("manifest"));
        manifest.put("files", entries);
        base = Json.write(manifest);
        list(read.get("recipes")).forEach(recipe -> recipes.add(object(recipe)));
    }

    /** A fresh copy of the base manifest, for the files that {@link #writeFiles} writes. */
    Map<String, Object> manifest() {
        return object(Json.parse(base));
    }

    void writeFiles(Path folder) throws IOException {
        for (Map.Entry<String, Object> file : files.entrySet()) {
            write(folder.resolve(file.getKey()), (String) file.getValue());
        }
    }

    /** Make the recipe's bundle at {@code folder}, which must not exist. */
    void make(Path folder, Map<String, Object> recipe) throws Exception {
        writeFiles(folder);
        Map<String, Object> manifest = manifest();
        String untouched = digest(manifest);
        List<List<Object>> texts = new ArrayList<>();
        List<List<Object>> last = new ArrayList<>();
        for (Object each : list(recipe.get("do"))) {
            List<Object> operation = list(each);
            if (operation.get(0).equals("text")) {
                texts.add(operation);
            } else if (LAST.contains(operation.get(0)) || operation.contains(MANIFEST)) {
                last.add(operation);
            } else if (!changeValues(manifest, folder, operation)) {
                changeFiles(folder, operation);
            }
        }
        manifest.put("digest", "DIGEST");
        String text = Json.write(manifest);
        for (List<Object> operation : texts) {
            int at = text.indexOf((String) operation.get(1));
            text = text.substring(0, at) + operation.get(2) + text.substring(at + ((String) operation.get(1)).length());
        }
        write(folder.resolve(MANIFEST), text.replace("DIGEST", wanted(recipe, text, untouched)));
        for (List<Object> operation : last) {
            changeFiles(folder, operation);
        }
    }

    private static String wanted(Map<String, Object> recipe, String text, String untouched) throws Exception {
        Object wanted = recipe.getOrDefault("digest", "right");
        if (wanted.equals("")) {
            return "";
        }
        String right = wanted.equals("base") ? untouched : digest(object(Json.parse(text)));
        return wanted.equals("upper") ? right.toUpperCase(java.util.Locale.ROOT) : right;
    }

    private static boolean changeValues(Map<String, Object> manifest, Path folder, List<Object> operation)
            throws Exception {
        String verb = (String) operation.get(0);
        if (verb.equals("list")) {
            String name = (String) operation.get(1);
            object(manifest.get("files")).put(name, entry(Files.readAllBytes(folder.resolve(name))));
            return true;
        }
        if (operation.size() < 2 || !(operation.get(1) instanceof List)) {
            return false;
        }
        List<Object> path = list(operation.get(1));
        Object value = operation.size() > 2 ? operation.get(2) : null;
        if (verb.equals("rename")) {
            Object moved = change(manifest, path, null, true);
            List<Object> renamed = new ArrayList<>(path.subList(0, path.size() - 1));
            renamed.add(value);
            change(manifest, renamed, moved, false);
        } else if (verb.equals("nest")) {
            Object nested = new ArrayList<>();
            for (long depth = 1; depth < (Long) value; depth++) {
                nested = Collections.singletonList(nested);
            }
            change(manifest, path, nested, false);
        } else if (verb.equals("many")) {
            change(manifest, path, Collections.nCopies(((Long) value).intValue(), 0L), false);
        } else {
            change(manifest, path, value, verb.equals("delete"));
        }
        return true;
    }

    /** Sets or deletes what stands at {@code path}, and returns what stood there. */
    static Object change(Object values, List<Object> path, Object value, boolean delete) {
        Object parent = values;
        for (Object key : path.subList(0, path.size() - 1)) {
            parent = key instanceof Long ? list(parent).get(((Long) key).intValue()) : object(parent).get(key);
        }
        Object key = path.get(path.size() - 1);
        if (parent instanceof List) {
            int index = ((Long) key).intValue();
            return delete ? list(parent).remove(index) : list(parent).set(index, value);
        }
        return delete ? object(parent).remove(key) : object(parent).put((String) key, value);
    }

    private static void changeFiles(Path folder, List<Object> operation) throws IOException {
        Object argument = operation.size() > 1 ? operation.get(1) : "";
        Path path = folder.resolve(argument instanceof String && operation.size() > 1 ? nameIn(operation) : MANIFEST);
        Object value = operation.size() > 2 ? operation.get(2) : null;
        switch ((String) operation.get(0)) {
            case "write": write(path, (String) value); break;
            case "append": write(path, read(path) + value); break;
            case "truncate": write(path, read(path).substring(0, ((Long) value).intValue())); break;
            case "flip": flip(path, ((Long) value).intValue()); break;
            case "remove": Files.delete(path); break;
            case "folder": Files.createDirectory(path); break;
            case "link": link(path, outside(folder)); break;
            case "unlink": Files.delete(outside(folder)); break;
            case "manifest": Files.write(path, bytes((String) argument)); break;
            case "fill": write(path, String.join("", Collections.nCopies(((Long) value).intValue(), (String) argument))); break;
            case "pad": write(path, read(path) + String.join("", Collections.nCopies(((Long) argument).intValue(), " "))); break;
            case "gone": delete(folder); break;
            case "file": delete(folder); write(folder, "hello"); break;
            default: throw new AssertionError(operation);
        }
    }

    private static String nameIn(List<Object> operation) {
        boolean whole = operation.get(0).equals("manifest") || operation.get(0).equals("fill");
        return whole ? MANIFEST : (String) operation.get(1);
    }

    private static Path outside(Path folder) {
        return folder.resolveSibling("outside");
    }

    private static void link(Path path, Path outside) throws IOException {
        Files.move(path, outside);
        Files.createSymbolicLink(path, outside);
    }

    private static void flip(Path path, int position) throws IOException {
        byte[] content = Files.readAllBytes(path);
        content[position] ^= 1;
        Files.write(path, content);
    }

    static void delete(Path folder) throws IOException {
        if (!Files.exists(folder)) {
            return;
        }
        try (Stream<Path> paths = Files.walk(folder)) {
            for (Path path : (Iterable<Path>) paths.sorted(Collections.reverseOrder())::iterator) {
                Files.delete(path);
            }
        }
    }

    private static void write(Path path, String content) throws IOException {
        Files.createDirectories(path.getParent());
        Files.write(path, content.getBytes(StandardCharsets.UTF_8));
    }

    private static String read(Path path) throws IOException {
        return new String(Files.readAllBytes(path), StandardCharsets.UTF_8);
    }

    static Map<String, Object> entry(byte[] content) throws Exception {
        Map<String, Object> entry = new LinkedHashMap<>();
        entry.put("size", (long) content.length);
        entry.put("sha256", sha256(content));
        return entry;
    }

    static String digest(Map<String, Object> manifest) throws Exception {
        Map<String, Object> plain = new LinkedHashMap<>(manifest);
        plain.remove("digest");
        return sha256(Json.canonical(plain));
    }

    private static String sha256(byte[] content) throws Exception {
        StringBuilder out = new StringBuilder();
        for (byte b : MessageDigest.getInstance("SHA-256").digest(content)) {
            out.append(String.format("%02x", b));
        }
        return out.toString();
    }

    private static byte[] bytes(String hex) {
        byte[] bytes = new byte[hex.length() / 2];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
        }
        return bytes;
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(Object value) {
        return (Map<String, Object>) value;
    }

    @SuppressWarnings("unchecked")
    static List<Object> list(Object value) {
        return (List<Object>) value;
    }
}
