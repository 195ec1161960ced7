package org.dgemma.runtime.engine;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.Set;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;

/**
 * A graph file whose weights may lie behind links, as in a hub's cache: onnxruntime refuses weights that leave the folder of
 * their graph. So the model is told their names where they lie, and is opened from memory with that folder as its own.
 */
final class LinkedWeights {
    /** The serialized model. */
    final ByteBuffer model;
    /** Where its weights lie. */
    final File folder;
    /** Whether the model is another one than the file's. */
    final boolean followed;

    private LinkedWeights(ByteBuffer model, Path folder, boolean followed) {
        this.model = model;
        this.folder = folder.toFile();
        this.followed = followed;
    }

    /**
     * Follow the links of one graph's weights. Those that a bundle may not have are refused: see {@link Bundle#file}.
     *
     * @param name of the graph's file in the bundle
     */
    static LinkedWeights of(Bundle bundle, String name) throws IOException {
        Path file = bundle.file(name).toPath().toAbsolutePath();
        Path place = file.getParent();
        String inner = name.substring(0, name.lastIndexOf('/') + 1);
        ByteBuffer plain = OnnxModel.map(file.toFile());
        Set<Path> folders = new HashSet<>();
        Set<Path> links = new HashSet<>();
        ProtoPieces moved = ExternalData.moved(plain, entries -> {
            String location = entries.getOrDefault("location", "");
            Path weights = place.resolve(location);
            if (location.isEmpty() || location.indexOf('/') >= 0 || !Files.isSymbolicLink(weights)) {
                folders.add(place); // the engine checks what stays as it is
                return;
            }
            Path real = bundle.file(inner + location).toPath().toRealPath();
            links.add(weights);
            folders.add(real.getParent());
            entries.put("location", real.getFileName().toString());
        });
        if (links.isEmpty()) {
            return new LinkedWeights(plain, place, false);
        }
        if (folders.size() > 1) {
            throw new EngineException(
                    file + ": its weights lie in several folders, and onnxruntime takes one; copy the bundle with cp -rL");
        }
        return new LinkedWeights(moved.toBuffer(), folders.iterator().next(), true);
    }
}
