package org.dgemma.runtime;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.jspecify.annotations.Nullable;

/**
 * Copies a bundle out of something that is no folder, such as an app's assets: engines read files by path.
 *
 * <p>The copy is made beside its place, checked and renamed, so a folder that has the bundle's name is whole.
 */
public final class BundleUnpacker {
    private BundleUnpacker() {}

    /** Opens a bundle's file by its name in the manifest, with '/' between folders. The stream is closed after use. */
    public interface Source {
        InputStream open(String name) throws IOException;
    }

    /**
     * Copies a bundle, unless the folder holds the same one undamaged. Reads every byte; call it off the main thread.
     *
     * <p>On Android: {@code BundleUnpacker.unpack(name -> assets.open("tiny.dgemma/" + name), folder)}.
     *
     * @param folder where the bundle is to be; its parent is made where it is missing, another bundle there is replaced
     * @return the checked bundle in the folder
     * @throws BundleException what is missing or damaged, or that there is no room
     */
    public static Bundle unpack(Source source, File folder) {
        try {
            Map<?, ?> manifest = manifest(source, folder);
            Bundle known = whole(folder);
            if (known != null && known.digest().equals(manifest.get("digest"))) {
                return known;
            }
            File temporary = new File(folder.getAbsoluteFile().getParentFile(), "." + folder.getName());
            delete(temporary);
            copy(source, Bundle.MANIFEST, temporary);
            if (manifest.get("files") instanceof Map) { // whether it is all that it should be is for open to say
                for (Object name : ((Map<?, ?>) manifest.get("files")).keySet()) {
                    copy(source, (String) name, temporary);
                }
            }
            Bundle checked = Bundle.open(temporary);
            delete(folder);
            Files.move(temporary.toPath(), folder.toPath(), StandardCopyOption.ATOMIC_MOVE);
            return checked.movedTo(folder);
        } catch (IOException error) {
            throw new BundleException(folder + ": the bundle cannot be unpacked (" + error.getMessage()
                    + "); free some space and try again", error);
        }
    }

    private static Map<?, ?> manifest(Source source, File folder) throws IOException {
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        try (InputStream from = source.open(Bundle.MANIFEST)) {
            pour(from, text);
        }
        try {
            Object values = Json.parse(text.toByteArray());
            if (values instanceof Map) {
                return (Map<?, ?>) values;
            }
        } catch (JsonException error) { // the same as another value
        }
        throw new BundleException(
                folder + ": " + Bundle.MANIFEST + " of the bundle to unpack is not a manifest; export it again");
    }

    private static @Nullable Bundle whole(File folder) {
        try {
            return folder.isDirectory() ? Bundle.open(folder) : null;
        } catch (BundleException error) {
            return null;
        }
    }

    private static void copy(Source source, String name, File folder) throws IOException {
        File target = Bundle.innerPath(folder, name);
        Files.createDirectories(target.getParentFile().toPath());
        try (InputStream from = source.open(name); OutputStream to = new FileOutputStream(target)) {
            pour(from, to);
        }
    }

    private static void pour(InputStream from, OutputStream to) throws IOException {
        byte[] block = new byte[1 << 16];
        for (int count = from.read(block); count >= 0; count = from.read(block)) {
            to.write(block, 0, count);
        }
    }

    private static void delete(File file) throws IOException {
        File[] inner = Files.isSymbolicLink(file.toPath()) ? null : file.listFiles();
        for (File each : inner == null ? new File[0] : inner) {
            delete(each);
        }
        Files.deleteIfExists(file.toPath());
    }
}
