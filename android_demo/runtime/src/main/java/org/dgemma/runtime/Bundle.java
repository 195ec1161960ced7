package org.dgemma.runtime;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.jspecify.annotations.Nullable;

/** A bundle that was verified: its folder, its manifest, its digest. Nothing here opens a graph. */
public final class Bundle {
    /** The file that lists all others. */
    public static final String MANIFEST = "manifest.json";

    private static final int BUFFER = 1 << 18;

    private final File folder;
    private final Manifest manifest;
    private final String digest;

    private Bundle(File folder, Manifest manifest, String digest) {
        this.folder = folder;
        this.manifest = manifest;
        this.digest = digest;
    }

    /** {@link #open(File, ProgressListener)} that tells nobody. */
    public static Bundle open(File folder) {
        return open(folder, null);
    }

    /**
     * Read the manifest and check version, digest, sizes and hashes. Reads every byte of the bundle: seconds for gigabytes
     * on a phone, so call it off the main thread. An interrupt of the thread ends it, and stays set.
     *
     * @param progress told of bytes hashed, or null
     * @throws BundleException naming the file and the cure
     */
    public static Bundle open(File folder, @Nullable ProgressListener progress) {
        File path = new File(folder, MANIFEST);
        Map<String, @Nullable Object> values = readManifest(folder, path);
        String expected = digest(values);
        if (expected == null || !expected.equals(values.remove("digest"))) {
            throw new BundleException(path + ": was changed after export (digest differs); export the bundle again");
        }
        Manifest manifest = Manifest.read(values, path.toString());
        Hashing hashing = new Hashing(manifest, progress);
        for (Map.Entry<String, Manifest.FileEntry> file : manifest.files.entrySet()) {
            checkFile(innerPath(folder, file.getKey()), file.getValue(), hashing);
        }
        checkListed(manifest, path);
        checkLengths(manifest, path);
        return new Bundle(folder, manifest, expected);
    }

    /** The same bundle, whose folder was moved. */
    Bundle movedTo(File place) {
        return new Bundle(place, manifest, digest);
    }

    public File folder() {
        return folder;
    }

    public Manifest manifest() {
        return manifest;
    }

    /** sha256 of the manifest's canonical JSON, as hexadecimal digits. */
    public String digest() {
        return digest;
    }

    /** A listed file; throws BundleException when it is empty, a link or outside the bundle. */
    public File file(String name) {
        File path = innerPath(folder, name);
        Manifest.FileEntry entry = manifest.files.get(name);
        if (entry == null) {
            throw new BundleException(path + ": is not listed in the manifest; export the bundle again");
        }
        if (entry.size == 0) {
            throw new BundleException(path + ": is empty; export the bundle again");
        }
        return path;
    }

    /** The spec of one graph; throws BundleException when the bundle was made without it. */
    public Manifest.GraphSpec graph(String engine, String name) {
        Map<String, Manifest.GraphSpec> graphs = manifest.graphs.get(engine);
        Manifest.GraphSpec spec = graphs == null ? null : graphs.get(name);
        if (spec == null) {
            throw new BundleException(
                    folder + ": has no " + engine + " graph " + Json.repr(name) + "; export the bundle again");
        }
        return spec;
    }

    private static Map<String, @Nullable Object> readManifest(File folder, File path) {
        if (folder.isFile()) {
            throw new BundleException(
                    folder + ": is a file, not a bundle made by `dgemma export`; unpack an archive and give the folder");
        }
        if (!folder.isDirectory()) {
            throw new BundleException(
                    folder + ": no such folder; give the path of a bundle made by `dgemma export`");
        }
        if (!path.isFile()) {
            throw new BundleException(
                    folder + ": has no " + MANIFEST + ", so it is not a bundle; make one with `dgemma export`");
        }
        if (path.length() > Json.MOST_LENGTH) {
            throw new BundleException(path + ": is too large for a manifest; export the bundle again");
        }
        BundleException none = new BundleException(path + ": is not a manifest; export the bundle again");
        Map<String, @Nullable Object> values = new LinkedHashMap<>();
        try {
            Object read = Json.parse(readBytes(path));
            if (!(read instanceof Map)) {
                throw none;
            }
            ((Map<?, ?>) read).forEach((key, value) -> values.put((String) key, value));
        } catch (JsonException error) {
            throw none;
        } catch (IOException error) {
            throw new BundleException(path + ": cannot be read; check its permissions", error);
        }
        Object version = values.get("format_version");
        boolean newer = version instanceof BigInteger && ((BigInteger) version).signum() > 0
                || version instanceof Long && (Long) version > Manifest.FORMAT_VERSION;
        if (newer) {
            throw new BundleException(path + ": format version " + version + " is newer than "
                    + Manifest.FORMAT_VERSION + "; upgrade dgemma");
        }
        if (!(version instanceof Long) || (Long) version < 1) {
            throw none;
        }
        return values;
    }

    private static byte[] readBytes(File path) throws IOException {
        ByteArrayOutputStream read = new ByteArrayOutputStream();
        try (InputStream in = new FileInputStream(path)) {
            byte[] buffer = new byte[BUFFER];
            // One byte beyond the limit is for the parser to refuse: the file may grow while it is read.
            for (int n = 0; n >= 0 && read.size() <= Json.MOST_LENGTH; n = in.read(buffer)) {
                read.write(buffer, 0, n);
            }
        }
        return read.toByteArray();
    }

    /** Null where the values have no canonical form: NaN, Infinity, lone surrogates. */
    private static @Nullable String digest(Map<String, @Nullable Object> values) {
        Map<String, @Nullable Object> plain = new LinkedHashMap<>(values);
        plain.remove("digest");
        try {
            return hex(sha256().digest(Json.canonical(plain)));
        } catch (JsonException error) {
            return null;
        }
    }

    /**
     * A bundle's file by its manifest name; refuses anything that could leave the folder. Links are refused, with one
     * exception: a file may be a link where a hub's cache made it.
     */
    static File innerPath(File folder, String name) {
        boolean escapes = name.startsWith("/") || name.indexOf('\\') >= 0 || name.indexOf(':') >= 0
                || name.chars().anyMatch(c -> c < ' ' || c == 127);
        File path = folder;
        File link = null;
        for (String part : name.split("/")) {
            escapes |= part.equals("..");
            if (!escapes && !part.isEmpty() && !part.equals(".")) {
                path = new File(path, part);
                link = link == null && isLink(path, name) ? path : link;
            }
        }
        if (escapes || path == folder) {
            throw new BundleException(
                    MANIFEST + ": file name " + Json.repr(name) + " leaves the bundle; export the bundle again");
        }
        if (link != null && !(link == path && HubCache.holds(folder, path))) {
            throw new BundleException(link + ": is a link; a bundle holds plain files only, so copy it with cp -rL");
        }
        return path;
    }

    private static boolean isLink(File path, String name) {
        try {
            return Files.isSymbolicLink(path.toPath());
        } catch (InvalidPathException error) {
            throw new BundleException(MANIFEST + ": file name " + Json.repr(name)
                    + " is not valid on this device; export the bundle again", error);
        }
    }

    private static void checkFile(File path, Manifest.FileEntry entry, Hashing hashing) {
        if (!path.isFile()) {
            throw new BundleException(path + ": is missing; copy the bundle again or export it again");
        }
        long size = path.length();
        if (size != entry.size) {
            throw new BundleException(path + ": has " + size + " bytes instead of " + entry.size
                    + "; copy the bundle again or export it again");
        }
        if (!path.canRead()) {
            throw new BundleException(path + ": cannot be read; check its permissions");
        }
        if (!hashing.sha256(path).equals(entry.sha256)) {
            throw new BundleException(path
                    + ": content differs from the manifest (sha256); copy the bundle again or export it again");
        }
    }

    private static void checkListed(Manifest manifest, File path) {
        manifest.graphs.forEach((engine, graphs) -> graphs.forEach((name, graph) -> {
            if (!manifest.files.containsKey(graph.file)) {
                throw new BundleException(path + ": " + Json.repr(engine) + " graph file "
                        + Json.repr(graph.file) + " is not listed; export the bundle again");
            }
        }));
        manifest.targets.forEach((target, spec) -> {
            TreeSet<String> used = new TreeSet<>(Arrays.asList(spec.table.file, spec.constants));
            spec.graphs.forEach(g -> Stream.of(g.file, g.binary, g.source).filter(Objects::nonNull).forEach(used::add));
            used.removeAll(manifest.files.keySet());
            if (!used.isEmpty()) {
                throw new BundleException(path + ": " + Json.repr(target) + " file " + Json.repr(used.first())
                        + " is not listed; export the bundle again");
            }
        });
        String unknown = manifest.chat == null ? null : manifest.chat.unknownForm();
        if (unknown != null) {
            throw new BundleException(
                    path + ": " + unknown + " is unknown; upgrade dgemma, or export the bundle again");
        }
        Manifest.TokenizerSpec tokenizer = manifest.tokenizer;
        if (tokenizer != null && !manifest.files.containsKey(tokenizer.file)) {
            throw new BundleException(path + ": tokenizer " + Json.repr(tokenizer.file)
                    + " is not listed; export the bundle again");
        }
    }

    /** Lengths size the caches and the noise, so they must fit together. */
    private static void checkLengths(Manifest manifest, File path) {
        String[] names = {"canvas_length", "steps", "context", "chunk"};
        int[] lengths = {manifest.canvasLength, manifest.steps, manifest.context, manifest.chunk};
        for (int i = 0; i < names.length; i++) {
            if (lengths[i] < 1) {
                throw new BundleException(path + ": " + names[i] + "=" + lengths[i]
                        + " must be a positive integer; export the bundle again");
            }
        }
        if (manifest.context <= manifest.canvasLength || manifest.steps != manifest.sampler.steps) {
            throw new BundleException(
                    path + ": canvas, context and steps do not fit together; export the bundle again");
        }
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError("every Java has SHA-256", error);
        }
    }

    private static String hex(byte[] bytes) {
        StringBuilder out = new StringBuilder();
        for (byte b : bytes) {
            out.append(Character.forDigit(b >> 4 & 15, 16)).append(Character.forDigit(b & 15, 16));
        }
        return out.toString();
    }

    /** Hashes file after file, and tells how far it has come. */
    private static final class Hashing {
        private final @Nullable ProgressListener progress;
        private final byte[] buffer = new byte[BUFFER];
        private final long total;
        private long done;

        Hashing(Manifest manifest, @Nullable ProgressListener progress) {
            this.progress = progress;
            this.total = manifest.files.values().stream().mapToLong(entry -> Math.max(0, entry.size))
                    .reduce(0, (sum, size) -> Math.min(sum, Long.MAX_VALUE - size) + size);
        }

        String sha256(File path) {
            MessageDigest hash = Bundle.sha256();
            try (InputStream in = new FileInputStream(path)) {
                for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
                    if (Thread.currentThread().isInterrupted()) {
                        throw new BundleException(path + ": reading was interrupted; open the bundle again");
                    }
                    hash.update(buffer, 0, n);
                    done += n;
                    if (progress != null) {
                        progress.onProgress(done, total);
                    }
                }
            } catch (IOException error) {
                throw new BundleException(path + ": cannot be read; check its permissions", error);
            }
            return hex(hash.digest());
        }
    }
}
