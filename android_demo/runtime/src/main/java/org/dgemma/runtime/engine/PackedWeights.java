package org.dgemma.runtime.engine;

import java.io.File;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.util.Locale;
import java.util.UUID;
import java.util.function.Consumer;

/**
 * onnxruntime's packed weights of one graph file, kept on this device: the graph is opened and saved once, and later
 * sessions map what was saved.
 *
 * <p>An entry is a folder, keyed by bundle digest, engine, its version and the processor, with {@code model.onnx}, whose
 * optimizations are done, and {@code weights.bin}, which holds each weight as it is and as its kernel packs it. It is built
 * beside its place and renamed, so a killed build leaves nothing that loads, and it may be deleted at any time. Not shared
 * with the cache of the bundle tools, whose entries of one bundle point into each other.
 */
final class PackedWeights {
    static final String MODEL = "model.onnx";
    static final String WEIGHTS = "weights.bin";
    /** Bytes of weights from which on mapping them beats packing them; fewer are packed in a tenth of a second. */
    static final long FROM = 64L << 20;
    /** An entry takes at most so many times the bundle's weights: 4-bit ones become 8-bit ones and a packed copy. */
    private static final int GROWTH = 5;
    /** Threads of this process exclude each other by it: file locks are held for a whole process. */
    private static final Object IN_PROCESS = new Object();
    private static final String[] TRAITS = {
        "model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant", "isa"
    };

    private final File place;
    private final long size;
    private final Consumer<String> warn;

    /** Fills a folder with an entry's files. */
    interface Maker {
        void make(File stage) throws IOException;
    }

    /**
     * @param cache folder of all entries; it may not exist yet.
     * @param file name of the graph file in the bundle.
     * @param size bytes of the bundle's weights, to see whether there is room.
     * @param warn told, in one line, why there are no packed weights.
     */
    PackedWeights(File cache, String digest, String version, String file, long size, Consumer<String> warn) {
        String stem = new File(file).getName().replaceFirst("\\.[^.]*$", "");
        String key = digest.substring(0, Math.min(16, digest.length())) + "-onnx-java-" + version + "-" + processor();
        this.place = new File(new File(cache, key), stem);
        this.size = size;
        this.warn = warn;
    }

    File model() {
        return new File(place, MODEL);
    }

    /** Make the entry unless it is sound; false, with a warning, where that cannot be. */
    boolean keep(Maker maker) {
        if (Seal.holds(place)) {
            return true;
        }
        try {
            synchronized (IN_PROCESS) {
                Files.createDirectories(place.getParentFile().toPath());
                try (FileChannel lock = openLock(); FileLock held = lock.lock()) {
                    return held.isValid() && keepAlone(maker);
                }
            }
        } catch (IOException error) {
            warn.accept(place + ": packed weights cannot be saved (" + AbstractEngine.line(error)
                    + "); give another cache folder, or none");
            return false;
        }
    }

    /** Forget the entry that the engine refused. */
    void refused(String why) {
        warn.accept(place + ": was refused (" + why + "); using the bundle's own weights");
        synchronized (IN_PROCESS) {
            try (FileChannel lock = openLock(); FileLock held = lock.lock()) {
                if (held.isValid()) {
                    delete(place);
                }
            } catch (IOException error) {
                warn.accept(place + ": cannot be deleted (" + AbstractEngine.line(error) + "); delete it yourself");
            }
        }
    }

    private boolean keepAlone(Maker maker) throws IOException {
        if (Seal.holds(place)) { // somebody else made it meanwhile
            return true;
        }
        if (place.exists()) {
            warn.accept(place + ": is damaged; packing the weights again");
            delete(place);
        }
        File parent = place.getParentFile();
        String prefix = "." + place.getName() + "-";
        for (File left : list(parent)) { // of builds that were killed: the lock is ours
            if (left.getName().startsWith(prefix)) {
                delete(left);
            }
        }
        long need = GROWTH * size;
        if (parent.getUsableSpace() < need + need / 20) {
            warn.accept(String.format(Locale.ROOT, "%s: no room for packed weights (up to %.1f GB); free some space, or give "
                    + "another cache folder", place, need / 1e9));
            return false;
        }
        File stage = new File(parent, prefix + UUID.randomUUID());
        try {
            Files.createDirectory(stage.toPath());
            maker.make(stage);
            SavedModel.tidy(new File(stage, MODEL), new File(stage, WEIGHTS));
            Seal.write(stage);
            Files.move(stage.toPath(), place.toPath(), StandardCopyOption.ATOMIC_MOVE);
        } finally {
            delete(stage);
        }
        return true;
    }

    /** The lock file stays: deleting it would race. */
    private FileChannel openLock() throws IOException {
        File file = new File(place.getParentFile(), place.getName() + ".lock");
        return FileChannel.open(file.toPath(), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
    }

    private static File[] list(File folder) {
        File[] found = folder.listFiles();
        return found == null ? new File[0] : found;
    }

    private static void delete(File file) throws IOException {
        if (!Files.isSymbolicLink(file.toPath())) {
            for (File inner : list(file)) {
                delete(inner);
            }
        }
        Files.deleteIfExists(file.toPath());
    }

    /** 12 hexadecimal digits of this processor's architecture, model and feature flags: packed layouts depend on them. */
    static String processor() {
        StringBuilder traits = new StringBuilder(System.getProperty("os.name")).append('\n');
        traits.append(System.getProperty("os.arch"));
        try {
            String info = new String(Files.readAllBytes(new File("/proc/cpuinfo").toPath()), StandardCharsets.UTF_8);
            for (String line : info.split("\n\n", 2)[0].split("\n")) {
                String trait = line.split(":", 2)[0].trim();
                for (String known : TRAITS) {
                    if (trait.equals(known)) {
                        traits.append('\n').append(line);
                    }
                }
            }
        } catch (IOException error) { // another system, or it is hidden: what remains must do
            traits.append('\n').append(System.getProperty("os.version"));
        }
        MessageDigest digest = Seal.sha256();
        digest.update(traits.toString().getBytes(StandardCharsets.UTF_8));
        return Seal.hex(digest).substring(0, 12);
    }
}
