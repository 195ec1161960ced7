package org.dgemma.demo;

import android.content.res.AssetManager;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.Map;
import org.dgemma.DgemmaException;
import org.dgemma.format.Json;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.BundleException;
import org.jspecify.annotations.Nullable;

/**
 * The bundle that ships inside the app. Engines read files by path, so it is unpacked once, and again when an update of
 * the app brings another one; a folder with the bundle's name is always a whole and checked bundle.
 */
final class BuiltIn {
    /** Its folder in the assets. */
    static final String NAME = "tiny.dgemma";

    private BuiltIn() {}

    /**
     * Unpack what is not unpacked yet, off the main thread.
     *
     * @param parent where bundles go
     * @return the bundle's folder, or null where the app ships none
     * @throws DgemmaException no room, or the copy does not have the hashes of its manifest
     */
    static @Nullable File unpack(AssetManager assets, File parent) {
        try {
            byte[] text;
            try {
                text = read(assets.open(NAME + "/" + Bundle.MANIFEST));
            } catch (FileNotFoundException error) {
                return null;
            }
            Map<?, ?> manifest = parse(text);
            File folder = new File(parent, NAME);
            if (folder.isDirectory() && String.valueOf(manifest.get("digest")).equals(whole(folder))) {
                return folder;
            }
            File temporary = new File(parent, "." + NAME);
            Bundles.delete(temporary);
            Bundles.delete(folder);
            copy(assets, Bundle.MANIFEST, temporary);
            for (Object file : ((Map<?, ?>) manifest.get("files")).keySet()) {
                copy(assets, (String) file, temporary);
            }
            Bundle.open(temporary);
            if (!temporary.renameTo(folder)) {
                throw new IOException("cannot rename " + temporary + " to " + folder);
            }
            return folder;
        } catch (IOException error) {
            throw new BundleException(
                    "the built-in bundle cannot be unpacked (" + error.getMessage()
                            + "); free some space and start again",
                    error);
        }
    }

    /** Digest of a bundle that is whole; null for one that lost or changed a file. */
    private static @Nullable String whole(File folder) {
        try {
            return Bundle.open(folder).digest();
        } catch (DgemmaException error) {
            return null;
        }
    }

    private static Map<?, ?> parse(byte[] manifest) throws IOException {
        try {
            return (Map<?, ?>) Json.parse(manifest);
        } catch (RuntimeException error) {
            throw new IOException("its manifest cannot be read", error);
        }
    }

    private static void copy(AssetManager assets, String file, File folder) throws IOException {
        File target = new File(folder, file);
        File inside = target.getParentFile();
        if (inside != null && !inside.isDirectory() && !inside.mkdirs()) {
            throw new IOException("cannot make " + inside);
        }
        try (InputStream from = assets.open(NAME + "/" + file); OutputStream to = new FileOutputStream(target)) {
            pour(from, to);
        }
    }

    private static byte[] read(InputStream stream) throws IOException {
        try (InputStream from = stream) {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            pour(from, bytes);
            return bytes.toByteArray();
        }
    }

    private static void pour(InputStream from, OutputStream to) throws IOException {
        byte[] block = new byte[1 << 16];
        for (int count = from.read(block); count >= 0; count = from.read(block)) {
            to.write(block, 0, count);
        }
    }
}
