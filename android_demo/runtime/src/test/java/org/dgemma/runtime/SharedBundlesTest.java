package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.dgemma.DgemmaException;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The good and bad bundles that the Python runtime's tests read too. */
public class SharedBundlesTest {
    @Rule
    public final TemporaryFolder temporary = new TemporaryFolder();

    private BundleRecipes corpus;

    @Before
    public void read() throws Exception {
        corpus = new BundleRecipes();
    }

    private File make(Map<String, Object> recipe) throws Exception {
        Path folder = temporary.newFolder().toPath().resolve("b.dgemma");
        corpus.make(folder, recipe);
        return folder.toFile();
    }

    private File makeGood() throws Exception {
        return make(corpus.recipes.get(0));
    }

    @Test
    public void everyRecipe() throws Exception {
        List<String> wrong = new ArrayList<>();
        int good = 0;
        for (Map<String, Object> recipe : corpus.recipes) {
            good += recipe.containsKey("error") ? 0 : 1;
            String problem = problem(recipe);
            if (problem != null) {
                wrong.add(recipe.get("name") + ": " + problem);
            }
        }
        assertTrue(String.join("\n", wrong), wrong.isEmpty());
        assertTrue(good >= 20 && corpus.recipes.size() - good >= 100);
    }

    private String problem(Map<String, Object> recipe) throws Exception {
        File folder = make(recipe);
        try {
            String digest = Bundle.open(folder).digest();
            return digest.equals(recipe.get("opens")) ? null : "opens with digest " + digest;
        } catch (DgemmaException error) {
            boolean right = error.getClass().getSimpleName().equals(recipe.get("error") + "Exception")
                    && error.getMessage().contains((String) recipe.get("says"))
                    && !error.getMessage().contains("\n");
            return right ? null : "says " + error;
        } catch (RuntimeException | StackOverflowError error) {
            return "throws " + error;
        }
    }

    @Test
    public void whatIsRead() throws Exception {
        Manifest manifest = Bundle.open(makeGood()).manifest();
        assertEquals(2, manifest.formatVersion);
        assertEquals("1.23.2", manifest.engines.get("onnx"));
        assertEquals(64, manifest.model.vocabSize);
        assertEquals(2, manifest.model.layerKvHeads(0));
        assertEquals(1, manifest.model.layerKvHeads(1));
        assertEquals(2, manifest.model.layerHeadDim(0));
        assertEquals(4, manifest.model.layerHeadDim(1));
        assertEquals(5, manifest.model.eosTokenIds[1]);
        assertEquals("[1, C]", manifest.graphs.get("onnx").get("encode").inputs.get(0).shape.toString());
        assertEquals(Integer.class, manifest.graphs.get("onnx").get("encode").inputs.get(0).shape.get(0).getClass());
        assertEquals(192, manifest.dims.get("S")[1]);
        assertEquals(61, manifest.chat.modelPrefix[1]);
        assertEquals(0.4 + (0.8 - 0.4) * (5.0 / 6), manifest.sampler.temperature(5), 0);
        assertEquals(32.0, manifest.quantization.get("bits_per_weight"));
        assertEquals(6, manifest.files.get("tokenizer.model").size);
    }

    @Test
    public void filesAndGraphs() throws Exception {
        File folder = makeGood();
        Bundle bundle = Bundle.open(folder);
        assertEquals(new File(folder, "onnx/encode.bin"), bundle.file("onnx/encode.bin"));
        assertEquals("onnx/encode.bin", bundle.graph("onnx", "encode").file);
        says("has no onnx graph 'generate'", () -> bundle.graph("onnx", "generate"));
        says("has no executorch graph 'encode'", () -> bundle.graph("executorch", "encode"));
        says("leaves the bundle", () -> bundle.file("../b.dgemma/tokenizer.model"));
        says("is not listed", () -> bundle.file("golden.npz"));
        for (Map<String, Object> recipe : corpus.recipes) {
            if (recipe.get("name").equals("an empty file")) {
                Bundle opened = Bundle.open(make(recipe));
                says("weights.bin: is empty", () -> opened.file("onnx/weights.bin"));
                return;
            }
        }
        fail("no recipe of an empty file");
    }

    private static void says(String what, org.junit.function.ThrowingRunnable run) {
        String message = assertThrows(BundleException.class, run).getMessage();
        assertTrue(message, message.contains(what));
    }

    @Test
    public void progressEndsAtTheTotal() throws Exception {
        List<Long> calls = new ArrayList<>();
        Bundle bundle = Bundle.open(makeGood(), (done, total) -> {
            calls.add(done);
            calls.add(total);
        });
        long total = bundle.manifest().files.values().stream().mapToLong(entry -> entry.size).sum();
        assertEquals(2 * bundle.manifest().files.size(), calls.size());
        assertEquals(total, (long) calls.get(calls.size() - 2));
        assertEquals(total, (long) calls.get(calls.size() - 1));
    }

    @Test
    public void whatAListenerThrowsComesThrough() throws Exception {
        File folder = makeGood();
        IllegalStateException mine = new IllegalStateException();
        assertSame(mine, assertThrows(IllegalStateException.class, () -> Bundle.open(folder, (done, total) -> {
            throw mine;
        })));
    }

    @Test
    public void anInterruptEndsIt() throws Exception {
        File folder = makeGood();
        Thread.currentThread().interrupt();
        try {
            says("reading was interrupted", () -> Bundle.open(folder));
        } finally {
            assertTrue("the interrupt stays set", Thread.interrupted());
        }
        assertFalse(Bundle.open(folder).digest().isEmpty());
    }
}
