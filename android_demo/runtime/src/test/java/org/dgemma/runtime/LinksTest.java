package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.dgemma.DgemmaException;
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

    private static Result answer(Path bundle, SessionOptions options) {
        try (Session session = Session.load(Bundle.open(bundle.toFile()), options.threads(1))) {
            Result result = session.generate("Write boip backwards.", GenerateOptions.DEFAULT.trace(true), null);
            assertEquals(Collections.emptyList(), session.warnings());
            return result;
        }
    }

    /** onnxruntime itself refuses weights that leave the folder of their graph; the graphs are told where they lie. */
    @Test
    public void onnxruntimeRunsABundleOfACacheAsItRunsACopy() throws Exception {
        Path plain = Repository.bundle("tiny-w8").toPath();
        Path cached = cached(plain, NAME, "tiny.dgemma");
        assertTrue(Files.isSymbolicLink(cached.resolve("onnx/weights.bin")));
        Result expected = answer(plain, SessionOptions.DEFAULT);
        Result found = answer(cached, SessionOptions.DEFAULT);
        assertEquals("piob", found.text);
        assertTrue(Arrays.deepEquals(expected.trajectory.canvasOut, found.trajectory.canvasOut));
        assertTrue(Arrays.deepEquals(expected.trajectory.entropy, found.trajectory.entropy));
        SessionOptions packed = SessionOptions.DEFAULT.cacheFolder(temporary.newFolder());
        assertEquals("piob", answer(cached, packed).text);
        try (Session session = Session.load(Bundle.open(cached.toFile()), SessionOptions.DEFAULT)) {
            assertEquals("piob", session.generate("Write boip backwards.", GenerateOptions.DEFAULT.loop(Loop.GRAPH), null).text);
        }
    }

    @Test
    public void graphsWhoseWeightsAreLinkedAlone() throws Exception {
        Path cached = cached(Repository.bundle("tiny-w8").toPath(), NAME, "");
        Path graph = cached.resolve("onnx/shared.onnx");
        Path blob = graph.toRealPath();
        Files.delete(graph);
        Files.copy(blob, graph);
        assertEquals("piob", answer(cached, SessionOptions.DEFAULT).text);
    }

    /** A link that the manifest does not list was not checked, so no graph may name it. */
    @Test
    public void aGraphThatNamesAnotherLinkIsRefused() throws Exception {
        Path cached = cached(Repository.bundle("tiny-w8").toPath(), NAME, "");
        Path weights = cached.resolve("onnx/weights.bin");
        Bundle bundle = Bundle.open(cached.toFile());
        Path outside = temporary.newFile().toPath();
        Files.copy(weights, outside, StandardCopyOption.REPLACE_EXISTING);
        Files.delete(weights);
        Files.createSymbolicLink(weights, outside); // after the check
        String said = assertThrows(DgemmaException.class, () -> Session.load(bundle, SessionOptions.DEFAULT)
                .generate("Write boip backwards.", GenerateOptions.DEFAULT, null)).getMessage();
        assertEquals(weights + ": is a link; a bundle holds plain files only, so copy it with cp -rL", said);
    }
}
