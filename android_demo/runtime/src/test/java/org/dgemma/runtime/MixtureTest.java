package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;
import static org.junit.Assume.assumeFalse;

import java.io.File;
import java.nio.file.Files;
import java.util.Collections;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Quantized mixtures of experts, whose operator comes from a native library: {@code -Ddgemma.experts.library}. */
public class MixtureTest {
    private static final String PROPERTY = "dgemma.experts.library";
    /** Nats; a last bit of another version of ONNX Runtime moves integers that activations are rounded to. */
    private static final float ENTROPY = 0.1f;

    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private static File micro() {
        return Repository.file("tests/vectors/mixture-w8.dgemma");
    }

    private static File library() {
        String path = System.getProperty(PROPERTY, "");
        assumeFalse("no -D" + PROPERTY + "; `python -m dgemma.runtime.native` prints the path to give", path.isEmpty());
        return new File(path);
    }

    @Test
    public void aMicroMixtureGivesTheGoldenCanvases() throws Exception {
        library();
        try (Session session = Session.load(micro(), SessionOptions.DEFAULT)) {
            float worst = 0;
            for (Golden golden : Golden.of(micro())) {
                for (Loop loop : Loop.values()) {
                    Trajectory t = golden.generate(session, loop);
                    assertEquals(loop.word(), null, golden.difference(t));
                    worst = Math.max(worst, golden.entropyError(t));
                }
                assertNotNull("another seed", golden.difference(golden.generate(session, Loop.HOST, golden.seed + 1)));
            }
            assertTrue("entropy error " + worst, worst <= ENTROPY);
        }
    }

    @Test
    public void packedWeightsGiveTheSame() throws Exception {
        SessionOptions options = SessionOptions.DEFAULT.expertsLibrary(library()).cacheFolder(folder.newFolder());
        Golden golden = Golden.of(micro()).get(0);
        for (int i = 0; i < 2; i++) {
            try (Session session = Session.load(micro(), options)) {
                assertEquals(null, golden.difference(golden.generate(session, Loop.HOST)));
                assertEquals(Collections.emptyList(), session.warnings());
            }
        }
    }

    /** Kernels of other versions of ONNX Runtime let near-ties fall otherwise, as in {@link GoldenTest}. */
    @Test
    public void tinyMoeIsCounted() throws Exception {
        library();
        for (String name : new String[] {"tiny-moe-w8", "tiny-moe-w4-mixed"}) {
            Golden.count(name);
        }
    }

    @Test
    public void aLibraryThatIsMissingOrIsNoneIsSaid() throws Exception {
        File other = folder.newFile("other.so");
        Files.write(other.toPath(), new byte[] {1, 2, 3});
        refused(new File("no-such.so"), "its experts' library no-such.so is not a file; ");
        refused(other, "its experts' library " + other + " cannot be loaded (");
        String before = System.getProperty(PROPERTY);
        try {
            System.clearProperty(PROPERTY);
            refused(null, "is a quantized mixture of experts, which needs " + System.mapLibraryName("dgemma_experts"));
        } finally {
            System.setProperty(PROPERTY, before == null ? "" : before);
        }
    }

    /** In one line that names the graph and says the cure. */
    private static void refused(File library, String says) {
        try (Session session = Session.load(micro(), SessionOptions.DEFAULT.expertsLibrary(library))) {
            EngineException error = assertThrows(
                    EngineException.class, () -> session.generate(new int[] {2, 3}, GenerateOptions.DEFAULT, null));
            String text = error.getMessage();
            assertTrue(text, text.startsWith(new File(micro(), "onnx").getPath()) && text.contains(".onnx: " + says));
            assertTrue(text, text.contains("; python -m dgemma.runtime.native builds it") && text.contains("-D" + PROPERTY));
            assertFalse(text, text.contains("\n"));
        }
    }
}
