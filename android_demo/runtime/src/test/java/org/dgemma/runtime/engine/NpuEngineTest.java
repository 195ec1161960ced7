package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.refused;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import ai.onnxruntime.OrtException;
import java.io.File;
import java.nio.file.Files;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.Manifest.GraphSpec;
import org.dgemma.runtime.Repository;
import org.dgemma.runtime.TargetSpec;
import org.dgemma.runtime.TargetSpec.StaticGraph;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The engine at its boundary: what it opens, with which options, and which graphs it takes. */
public class NpuEngineTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private final Bundle bundle = Bundle.open(Repository.bundle("tiny-npu-fp32"));
    private final TargetSpec spec = bundle.manifest().targets.get("qnn:SM8650");
    private final NpuEngines.OnProcessor fake = new NpuEngines.OnProcessor();

    private NpuEngine engine(NpuProvider provider, boolean sources) throws Exception {
        QnnLibraries libraries = QnnLibraries.in(new File("/libraries"));
        Map<String, String> options = QnnProvider.options(libraries, spec.options);
        return new NpuEngine(bundle, spec, new StaticGraphs.Opening(provider, options, sources, 1), "onnx/qnn (SM8650)");
    }

    /** Feeds and outputs of a graph behind a prefix of so many slots. */
    private static Map<String, Tensor> outputs(Engine engine, String graph, int slots, int rows, Map<String, Tensor> feeds) {
        GraphSpec spec = engine.bundle().graph("onnx", graph);
        Map<String, Integer> dims = new HashMap<>(Fixtures.dims(slots, rows));
        dims.put("A", rows);
        dims.put("R", 1);
        feeds.putAll(Fixtures.zeros(spec.inputs, dims));
        if (feeds.containsKey("temperature")) {
            feeds.get("temperature").data.putFloat(0, 0.8f);
        }
        if (feeds.containsKey("count")) {
            feeds.get("count").data.putLong(0, rows);
        }
        return Fixtures.zeros(spec.outputs, dims);
    }

    private static Map<String, Tensor> run(Engine engine, String graph, int slots, int rows) {
        Map<String, Tensor> feeds = new LinkedHashMap<>();
        Map<String, Tensor> outputs = outputs(engine, graph, slots, rows, feeds);
        engine.run(graph, feeds, outputs);
        return outputs;
    }

    @SuppressWarnings("unchecked")
    private static Map<String, String> recorded(String name) throws Exception {
        return (Map<String, String>) Repository.json("tests/vectors/qnn.json").get(name);
    }

    @Test
    public void contextsAndSourcesAreOpenedWithWhatPythonPasses() throws Exception {
        for (boolean sources : new boolean[] {false, true}) {
            NpuEngines.OnProcessor asked = new NpuEngines.OnProcessor();
            try (Engine engine = engine(asked, sources)) {
                run(engine, "denoise", 64, 64);
            }
            assertEquals(Collections.singleton(recorded(sources ? "source" : "context")), asked.entries);
            assertEquals(Collections.singleton(recorded("provider")), asked.options);
            Set<File> files = new HashSet<>();
            for (StaticGraph graph : spec.graphs) {
                files.add(bundle.file(sources ? graph.source : graph.file));
            }
            assertTrue(asked.files.toString(), files.containsAll(asked.files));
        }
    }

    @Test
    public void theSmallestGraphThatIsLargeEnoughRuns() throws Exception {
        try (Engine engine = engine(fake, true)) {
            int[][] cases = {{64, 1}, {64, 2}, {192, 16}, {320, 17}, {640, 64}};
            String[] names = {"1x128", "16x128", "16x256", "64x512", "64x1024"};
            for (int i = 0; i < cases.length; i++) {
                fake.files.clear();
                run(engine, "encode", cases[i][0], cases[i][1]);
                String[] spans = {"0-2", "2-5", "5-6"}; // the first two without a full layer, the last without a sliding one
                for (int part = 0; part < spans.length; part++) {
                    assertEquals("layers-" + spans[part] + "-" + names[i] + ".onnx", fake.files.get(part).getName());
                }
                run(engine, "encode", cases[i][0], cases[i][1]);
                assertEquals("opened once", spans.length, fake.files.size());
            }
        }
    }

    /** What an earlier, longer prefix left in the arrays must not be seen. */
    @Test
    public void whatArraysHeldBeforeDoesNotMatter() throws Exception {
        try (Engine engine = engine(fake, true); Engine fresh = engine(fake, true)) {
            Map<String, Tensor> feeds = new LinkedHashMap<>();
            Map<String, Tensor> outputs = outputs(engine, "denoise", 128, 64, feeds);
            for (Map.Entry<String, Tensor> feed : feeds.entrySet()) {
                for (int i = 0; feed.getKey().startsWith("prefix_key") && i < feed.getValue().data.capacity() / 4; i++) {
                    feed.getValue().data.putFloat(4 * i, 3 - i % 7);
                }
            }
            feeds.get("prefix_length").data.putLong(0, 100);
            engine.run("denoise", feeds, outputs);
            float[] after = entropies(run(engine, "denoise", 64, 64));
            assertArrayEquals(entropies(run(fresh, "denoise", 64, 64)), after, 0);
            assertFalse(entropies(outputs)[0] == after[0]);
        }
    }

    private static float[] entropies(Map<String, Tensor> outputs) {
        float[] found = new float[64];
        outputs.get("entropy").data.asFloatBuffer().get(found);
        return found;
    }

    @Test
    public void whatItDoesNotHaveIsRefused() throws Exception {
        try (Engine engine = engine(fake, true)) {
            refused(() -> engine.prepare("generate"), "onnx/qnn (SM8650) has no graph of all steps", "use loop host");
            refused(() -> engine.prepare("denoise_guided"), "has no graph 'denoise_guided'; use target cpu");
            assertEquals(bundle.manifest().targets.get("qnn:SM8650").placement, engine.placement().parts);
        }
    }

    @Test
    public void aGraphThatTheNpuRefusesIsAnErrorWithItsReason() throws Exception {
        NpuProvider refusing = (model, entries, options, threads) -> {
            throw new OrtException("the reason,\nin two lines");
        };
        try (Engine engine = engine(refusing, false)) {
            refused(() -> run(engine, "denoise", 64, 64), bundle.file("qnn/SM8650/condition-0-0-64.onnx") + ": the NPU refused "
                    + "this graph (", "the reason, in two lines); export the bundle again, or use target cpu");
        }
        // a file that is no context at all
        NpuProvider opening = (model, entries, options, threads) -> NpuEngines.plain(model, threads);
        try (Engine engine = engine(opening, false)) {
            refused(() -> run(engine, "denoise", 64, 64), "the NPU refused this graph (");
        }
    }

    @Test
    public void aContextOfAnotherShapeIsRefusedBeforeItRuns() throws Exception {
        File other = bundle.file("qnn/condition-0-0-16.onnx");
        NpuProvider wrong = (model, entries, options, threads) -> NpuEngines.plain(other, threads);
        try (Engine engine = engine(wrong, false)) {
            refused(() -> run(engine, "denoise", 64, 64), "takes or gives other tensors than this dgemma");
        }
    }

    @Test
    public void constantsThatAreDamagedAreRefused() throws Exception {
        File file = folder.newFile();
        Files.write(file.toPath(), new byte[] {1, 2, 3});
        try {
            HostConstants.read(file, bundle.manifest().model);
            throw new AssertionError("nothing was refused");
        } catch (org.dgemma.runtime.BundleException error) {
            assertTrue(error.getMessage(), error.getMessage().contains("cannot be read"));
        }
    }
}
