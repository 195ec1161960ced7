package org.dgemma.demo;

import android.content.Context;
import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.dgemma.runtime.Bundle;
import org.jspecify.annotations.Nullable;

/** The bundles on this device: unpacked from the app, added by the file picker, pushed by adb. */
final class Bundles {
    enum Origin { BUILT_IN, ADDED, PUSHED }

    static final class Entry {
        /** Without the ending .dgemma. */
        final String name;
        final File folder;
        final Origin origin;

        Entry(File folder, Origin origin) {
            String full = folder.getName();
            this.name = full.endsWith(ENDING) ? full.substring(0, full.length() - ENDING.length()) : full;
            this.folder = folder;
            this.origin = origin;
        }
    }

    static final String ENDING = ".dgemma";

    private final File builtIn;
    private final File added;
    private final @Nullable File pushed;

    Bundles(Context context) {
        builtIn = new File(context.getFilesDir(), "builtin");
        added = new File(context.getFilesDir(), "bundles");
        pushed = context.getExternalFilesDir("bundles");
    }

    /** Where {@link BuiltIn} unpacks to. */
    File builtInFolder() {
        return builtIn;
    }

    /** Where {@link BundleCopy} copies to. */
    File addedFolder() {
        return added;
    }

    /** Where adb pushes to; null while the device has no shared storage. */
    @Nullable File pushedFolder() {
        return pushed;
    }

    /** Every folder that has a manifest, built-in ones first; nothing is checked. */
    List<Entry> list() {
        List<Entry> found = new ArrayList<>();
        collect(builtIn, Origin.BUILT_IN, found);
        collect(added, Origin.ADDED, found);
        collect(pushed, Origin.PUSHED, found);
        return found;
    }

    /** By folder name, with or without .dgemma; a pushed one hides an added one, and both hide a built-in one. */
    @Nullable Entry named(String name) {
        Entry found = null;
        for (Entry entry : list()) {
            if (entry.folder.getName().equals(name) || entry.name.equals(name)) {
                found = entry;
            }
        }
        return found;
    }

    @Nullable Entry at(@Nullable String path) {
        for (Entry entry : list()) {
            if (entry.folder.getPath().equals(path)) {
                return entry;
            }
        }
        return null;
    }

    private static void collect(@Nullable File parent, Origin origin, List<Entry> into) {
        File[] folders = parent == null ? null : parent.listFiles();
        if (folders == null) {
            return;
        }
        Arrays.sort(folders);
        for (File folder : folders) {
            if (!folder.getName().startsWith(".") && new File(folder, Bundle.MANIFEST).isFile()) {
                into.add(new Entry(folder, origin));
            }
        }
    }

    /** Bytes of all files in a folder. */
    static long size(File folder) {
        File[] files = folder.listFiles();
        if (files == null) {
            return folder.length();
        }
        long sum = 0;
        for (File file : files) {
            sum += size(file);
        }
        return sum;
    }

    /** Delete a folder and what is in it; links are removed, not followed. */
    static void delete(File file) {
        File[] files = java.nio.file.Files.isSymbolicLink(file.toPath()) ? null : file.listFiles();
        if (files != null) {
            for (File inside : files) {
                delete(inside);
            }
        }
        // A file that stays behind is found and deleted at the next start.
        boolean ignored = file.delete();
    }
}
