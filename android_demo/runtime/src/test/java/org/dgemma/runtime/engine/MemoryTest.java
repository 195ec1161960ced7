package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.bundle;
import static org.dgemma.runtime.engine.Fixtures.object;
import static org.dgemma.runtime.engine.Fixtures.refused;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.Manifest;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The lower bound, by hand for tiny, and what is said below it. */
public class MemoryTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void theBoundIsThatOfThePythonRuntime() {
        Manifest manifest = Bundle.open(bundle("tiny")).manifest();
        Memory.Need need = Memory.need(manifest, "onnx");
        long files = manifest.files.get("onnx/weights.bin").size + manifest.files.get("onnx/shared.onnx").size
                + manifest.files.get("onnx/generate.onnx").size;
        assertEquals(files, need.weights);
        assertEquals(2 * 4 * (5 * 2 * 32 + 64) * 128, need.prefix);
        assertEquals(4 * (64 * (6 * 128 + 2 * 512) + 2 * 64 * 618), need.step);
    }

    @Test
    public void fourBitsAreEightInOnnxAndFourInExecutorch() {
        Manifest manifest = Bundle.open(bundle("tiny-w4")).manifest();
        long parameters = ((Number) manifest.quantization.get("parameters")).longValue();
        assertTrue(Memory.need(manifest, "onnx").weights >= parameters);
        assertEquals(manifest.files.get("executorch/model.pte").size, Memory.need(manifest, "executorch").weights);
    }

    @Test
    public void whatIsFreeIsReadFromTheKernel() {
        assertTrue(Memory.available() > 1 << 20);
        assertEquals(5L << 10, Memory.available("MemTotal: 9 kB\nMemAvailable:          5 kB\nCached: 7 kB\n"));
        assertEquals(-1, Memory.available("MemTotal: 9 kB\n"));
        assertEquals(-1, Memory.available("MemAvailable: many kB\n"));
    }

    @Test
    public void aBundleThatCannotFitIsRefusedWithFigures() throws Exception {
        Bundle large = Fixtures.changed(bundle("tiny"), folder.newFolder().toPath(), path -> {},
                values -> object(values.get("quantization")).put("parameters", 800_000L));
        Manifest manifest = large.manifest();
        long total = Memory.need(manifest, "onnx").total();
        Memory.check(manifest, "onnx", "tiny.dgemma", total);
        refused(() -> Memory.check(manifest, "onnx", "tiny.dgemma", total - 1),
                "tiny.dgemma: needs at least 0.01 GB of memory with onnx (weights 0.01 GB, prefix 0.00 GB, a step 0.00 GB)",
                " and 0.01 GB is free; a recipe of at most 7", " bits per weight would fit; close other programs");
        String none = refused(() -> Memory.check(manifest, "onnx", "tiny.dgemma", 0)).getMessage();
        assertTrue(none, none.contains("is free; close other programs, or turn off the memory check to try anyway"));
    }
}
