package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.bundle;
import static org.dgemma.runtime.engine.Fixtures.dims;
import static org.dgemma.runtime.engine.Fixtures.zeros;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assume.assumeTrue;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Map;
import java.util.regex.Pattern;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.SessionOptions;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Unsigned weights give what signed ones give where those are exact; `tests/x86` has a processor where they are not. */
public class ExactProductsTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    /** What `denoise` and `generate` make of zeros: soft embeddings and entropies, which tell any two products apart. */
    private static ByteBuffer[] answers(String name, File cache, boolean unsigned) {
        Bundle bundle = Bundle.open(bundle(name));
        SessionOptions options = cache == null ? SessionOptions.DEFAULT : SessionOptions.DEFAULT.cacheFolder(cache);
        try (Engine engine = new OnnxEngine(bundle, options, 1, unsigned)) {
            return new ByteBuffer[] {
                answer(engine, "denoise", "next_soft"), answer(engine, "generate", "entropies"),
            };
        }
    }

    private static ByteBuffer answer(Engine engine, String graph, String output) {
        Map<String, Tensor> feeds = zeros(engine.bundle().graph("onnx", graph).inputs, dims(64, 1));
        Map<String, Tensor> outputs = zeros(engine.bundle().graph("onnx", graph).outputs, dims(64, 1));
        if (feeds.containsKey("temperature")) {
            feeds.get("temperature").data.putFloat(0, 0.8f);
        }
        if (feeds.containsKey("most_steps")) { // of a bundle whose fused graph has its sampler built in, there is nothing to say
            feeds.get("most_steps").data.putLong(0, 2);
            feeds.get("temperatures").data.putFloat(0, 0.8f).putFloat(4, 0.8f);
        }
        engine.run(graph, feeds, outputs);
        return outputs.get(output).data;
    }

    @Test
    public void unsignedWeightsGiveTheSameBits() throws Exception {
        for (String name : new String[] {"tiny", "tiny-w8"}) {
            File cache = folder.newFolder();
            ByteBuffer[] expected = answers(name, null, false);
            assertNotEquals(expected[0], ByteBuffer.allocate(expected[0].capacity()));
            for (File place : new File[] {null, cache, cache}) { // without a cache, filling it, reading it
                ByteBuffer[] found = answers(name, place, true);
                assertEquals(name, expected[0], found[0]);
                assertEquals(name, expected[1], found[1]);
            }
        }
    }

    @Test
    public void theyAreKeptApartFromSignedOnes() throws Exception {
        assumeTrue("products saturate here, so that nothing is signed", !saturates());
        File cache = folder.newFolder();
        answers("tiny-w8", cache, false);
        answers("tiny-w8", cache, true);
        assertEquals(2, cache.listFiles().length);
    }

    @Test
    public void onlyAModelThatNeedsThemIsChanged() throws Exception {
        String name = "onnx/generate.onnx";
        Bundle bundle = Bundle.open(bundle("tiny-w8"));
        File graph = bundle.file(name);
        assertNull(OnnxModel.read(bundle, name, false).changed);
        assertEquals(0, count(OnnxModel.map(graph), "unsigned/"));
        assertNotEquals(0, count(OnnxModel.read(bundle, name, true).changed, "unsigned/zero"));
    }

    private static int count(ByteBuffer model, String text) {
        byte[] bytes = new byte[model.remaining()];
        model.duplicate().get(bytes);
        return new String(bytes, StandardCharsets.ISO_8859_1).split(Pattern.quote(text), -1).length - 1;
    }

    @Test
    public void productsSaturateOnX86WithoutVnniAlone() throws Exception {
        File cpuinfo = new File("/proc/cpuinfo");
        assumeTrue("this system does not tell what the processor has", cpuinfo.exists());
        String info = new String(Files.readAllBytes(cpuinfo.toPath()), StandardCharsets.UTF_8);
        boolean avx2 = Pattern.compile("\\bavx2\\b").matcher(info).find();
        boolean exact = Pattern.compile("\\b(avx_vnni|avx512_vnni|amx_int8)\\b").matcher(info).find();
        assertEquals(avx2 && !exact, saturates());
    }

    private static boolean saturates() throws Exception {
        return ExactProducts.saturates(OnnxLibrary.environment());
    }
}
