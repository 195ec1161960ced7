package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Links: those of a hub's cache are files like others; others are refused. */
public class LinksTest {
    @Rule
    public final TemporaryFolder temporary = new TemporaryFolder();

    private static final String NAME = "models--some--name";

    /** Lays a folder out as huggingface_hub does: every file a relative link into the blobs of its repository. */
    private Path cached(Path folder, String name, String below) throws Exception {
        Path root = temporary.newFolder().toPath().resolve("hub").resolve(name);
        Path snapshot = root.resolve("snapshots/0f3c9").resolve(below);
        Files.createDirectories(root.resolve("blobs"));
        List<Path> files;
        try (Stream<Path> found = Files.walk(folder)) {
            files = found.filter(Files::isRegularFile).collect(Collectors.toList());
        }
        for (Path source : files) {
            Path blob = root.resolve("blobs/" + files.indexOf(source));
            Files.copy(source, blob);
            Path link = snapshot.resolve(folder.relativize(source).toString());
            Files.createDirectories(link.getParent());
            Files.createSymbolicLink(link, link.getParent().relativize(blob));
        }
        return snapshot;
    }

    private static String refused(Path bundle) {
        return assertThrows(BundleException.class, () -> Bundle.open(bundle.toFile())).getMessage();
    }

    @Test
    public void aBundleOfACacheOpens() throws Exception {
        File plain = ToyBundle.write();
        String digest = Bundle.open(plain).digest();
        for (String name : new String[] {NAME, "datasets--some--name", "spaces--some--name"}) {
            for (String below : new String[] {"", "tiny.dgemma", "a/b"}) {
                Path bundle = cached(plain.toPath(), name, below);
                assertEquals(digest, Bundle.open(bundle.toFile()).digest());
                assertTrue(Bundle.open(bundle.toFile()).file("onnx/encode.bin").isFile());
                Path mine = temporary.newFolder().toPath().resolve("mine");
                Files.createSymbolicLink(mine, bundle); // a folder that is reached by a link lies where it is
                assertEquals(digest, Bundle.open(mine.toFile()).digest());
            }
        }
    }

    @Test
    public void linksThatLeaveTheCacheAreRefused() throws Exception {
        String[] elsewhere = {"../../../../../outside", "../../../models--other--name/blobs/a", "../../refs/a",
            "../../blobs/deeper/a", "onnx/other.bin"};
        for (String place : elsewhere) {
            Path bundle = cached(ToyBundle.write().toPath(), NAME, "");
            Path file = bundle.resolve("onnx/encode.bin");
            Path target = bundle.resolve(place).normalize();
            Files.createDirectories(target.getParent());
            Files.copy(file, target, StandardCopyOption.REPLACE_EXISTING);
            Files.delete(file);
            Files.createSymbolicLink(file, target);
            assertEquals(file + ": is a link; a bundle holds plain files only, so copy it with cp -rL", refused(bundle));
        }
    }

    @Test
    public void theSameLinksElsewhereAreRefusedWithTheCure() throws Exception {
        for (String root : new String[] {"models", "some--name", "Models--some--name"}) {
            String said = refused(cached(ToyBundle.write().toPath(), root, ""));
            assertTrue(said, said.endsWith("so copy it with cp -rL"));
        }
    }

    @Test
    public void foldersAndLostBlobs() throws Exception {
        Path bundle = cached(ToyBundle.write().toPath(), NAME, "");
        Files.delete(bundle.resolve("onnx/encode.bin").toRealPath());
        assertTrue(refused(bundle), refused(bundle).contains("encode.bin: is a link"));
        Path other = cached(ToyBundle.write().toPath(), NAME, "");
        Path inBlobs = other.resolve("../../blobs/onnx").normalize();
        Files.move(other.resolve("onnx"), inBlobs);
        Files.createSymbolicLink(other.resolve("onnx"), inBlobs);
        assertTrue(refused(other), refused(other).contains("onnx: is a link"));
    }

    @Test
    public void changedBlobsAreFound() throws Exception {
        Path bundle = cached(ToyBundle.write().toPath(), NAME, "");
        Path file = bundle.resolve("onnx/encode.bin");
        Files.write(file, new byte[(int) Files.size(file)]);
        assertTrue(refused(bundle), refused(bundle).contains("content differs"));
    }

    @Test
    public void anArchiveIsNoBundle() throws Exception {
        Path archive = temporary.newFile("tiny.zip").toPath();
        assertEquals(archive + ": is a file, not a bundle made by `dgemma export`; unpack an archive and give the folder",
                refused(archive));
    }

    /** onnxruntime refuses weights that leave the folder of their graph, so this is told before anything is loaded. */
    @Test
    public void onnxruntimeTakesNoLinkedWeights() throws Exception {
        Path cached = cached(Repository.bundle("tiny-w8").toPath(), NAME, "tiny.dgemma");
        Bundle bundle = Bundle.open(cached.toFile());
        String said = assertThrows(EngineException.class, () -> Session.load(bundle, SessionOptions.DEFAULT)).getMessage();
        assertEquals(cached.resolve("onnx/weights.bin")
                + ": is a link, and onnxruntime takes plain files only, so copy the bundle with cp -rL", said);
    }
}
