package org.dgemma.demo;

import android.content.res.AssetManager;
import java.io.File;
import java.io.IOException;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.BundleUnpacker;
import org.jspecify.annotations.Nullable;

/** The bundle that ships inside the app; it is unpacked once, and again when an update of the app brings another one. */
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
            assets.open(NAME + "/" + Bundle.MANIFEST).close();
        } catch (IOException error) {
            return null;
        }
        return BundleUnpacker.unpack(name -> assets.open(NAME + "/" + name), new File(parent, NAME)).folder();
    }
}
