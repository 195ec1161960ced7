package org.dgemma.runtime;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;

/**
 * The layout of a hub's cache: {@code models--OWNER--NAME/snapshots/REVISION/…}, whose files are links into
 * {@code models--OWNER--NAME/blobs/}. It may begin with {@code datasets--} or {@code spaces--} too.
 */
final class HubCache {
    private HubCache() {}

    /**
     * Whether a link of a folder stays inside that layout. With all links resolved, the folder must lie in or be
     * {@code ROOT/snapshots/REVISION}, and the file must lie directly in {@code ROOT/blobs}, of the same ROOT.
     */
    static boolean holds(File folder, File link) {
        try {
            Path place = folder.toPath().toRealPath();
            Path target = link.toPath().toRealPath();
            Path root = root(place);
            if (root == null) {
                return false;
            }
            Path inside = root.relativize(place);
            return inside.getNameCount() >= 2
                    && inside.getName(0).toString().equals("snapshots")
                    && root.resolve("blobs").equals(target.getParent())
                    && Files.isRegularFile(target);
        } catch (IOException error) { // a link to nothing
            return false;
        }
    }

    /** The nearest folder above that is a repository's. */
    private static @Nullable Path root(Path place) {
        for (Path above = place.getParent(); above != null; above = above.getParent()) {
            Path name = above.getFileName();
            String text = name == null ? "" : name.toString();
            if (text.startsWith("models--") || text.startsWith("datasets--") || text.startsWith("spaces--")) {
                return above;
            }
        }
        return null;
    }
}
