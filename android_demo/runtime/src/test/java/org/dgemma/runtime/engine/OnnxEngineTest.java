package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.bundle;
import static org.dgemma.runtime.engine.Fixtures.dims;
import static org.dgemma.runtime.engine.Fixtures.ints;
import static org.dgemma.runtime.engine.Fixtures.object;
import static org.dgemma.runtime.engine.Fixtures.refused;
import static org.dgemma.runtime.engine.Fixtures.zeros;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.SessionOptions;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** ONNX Runtime for Java on the tiny bundles. */
public class OnnxEngineTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    /** One graph's tensors, zeros at first. */
    private static final class Call {
        final String graph;
        final Map<String, Tensor> feeds;
        final Map<String, Tensor> outputs;

        Call(Bundle bundle, String graph, int s, int c) {
            this.graph = graph;
            feeds = zeros(bundle.graph("onnx", graph).inputs, dims(s, c));
            outputs = zeros(bundle.graph("onnx", graph).outputs, dims(s, c));
            if (feeds.containsKey("count")) {
                feeds.get("count").data.putLong(0, c);
            }
            if (feeds.containsKey("temperature")) {
                feeds.get("temperature").data.putFloat(0, 0.8f);
            }
            if (feeds.containsKey("most_steps")) { // all steps: with 0 of them, a run is over before anything can end it
                long steps = feeds.get("temperatures").size(0);
                feeds.get("most_steps").data.putLong(0, steps);
                for (int i = 0; i < steps; i++) {
                    feeds.get("temperatures").data.putFloat(4 * i, 0.8f);
                    feeds.get("bounds").data.putDouble(8 * i, 0.1);
                }
            }
        }

        void on(Engine engine) {
            engine.run(graph, feeds, outputs);
        }

        long first(String output) {
            return outputs.get(output).data.getLong(0);
        }
    }

    private static Engine tiny() {
        return Engines.open(Bundle.open(bundle("tiny")), SessionOptions.DEFAULT);
    }

    @Test
    public void everyStepIsThatOfPythonOnTheSameVersion() throws Exception {
        for (String name : new String[] {"tiny", "tiny-w8", "tiny-w4-mixed"}) {
            Map<String, ByteBuffer> python = Fixtures.recording("onnx-" + name + ".npz");
            try (Session session = Session.load(bundle(name), SessionOptions.DEFAULT)) {
                assertEquals("onnx", session.engine());
                GenerateOptions options = GenerateOptions.DEFAULT.seed(3).maxNewTokens(64).trace(true);
                Result result = session.generate(ints(python.get("prompt")), options, null);
                assertArrayEquals(name, ints(python.get("tokens")), result.tokens);
                // 0 on the processor that the recordings were made on; another one's kernels add in another order
                assertEquals(0.0, entropyDifference(python.get("entropy"), result.trajectory.entropy), 1e-5);
                // the control: other noise, other entropies
                Result other = session.generate(ints(python.get("prompt")), options.seed(4), null);
                assertTrue(entropyDifference(python.get("entropy"), other.trajectory.entropy) > 1e-3);
            }
        }
    }

    private static double entropyDifference(ByteBuffer python, float[][] java) {
        double most = 0;
        int n = java[0].length;
        for (int i = 0; i < Math.min(java.length * n, python.capacity() / 4); i++) {
            most = Math.max(most, Math.abs(python.getFloat(4 * i) - java[i / n][i % n]));
        }
        return most;
    }

    @Test
    public void everyGraphRunsAndCountsItsSeconds() {
        try (Engine engine = tiny()) {
            for (String graph : new String[] {"encode", "denoise", "decode", "generate"}) {
                double before = engine.seconds();
                new Call(engine.bundle(), graph, 64, 1).on(engine);
                assertTrue(engine.seconds() > before);
            }
            assertEquals("1.29.0", engine.version());
            assertEquals(Collections.emptyList(), engine.warnings());
        }
    }

    @Test
    public void whatDoesNotFitTheGraphNeverReachesNativeCode() {
        try (Engine engine = tiny()) {
            Bundle bundle = engine.bundle();
            Call call = new Call(bundle, "encode", 64, 8);
            call.on(engine);
            Map<String, Tensor> feeds = new HashMap<>(call.feeds);
            feeds.remove("start");
            refused(() -> engine.run("encode", feeds, call.outputs), "graph 'encode': input 'start' is missing or unknown");
            feeds.putAll(call.feeds);
            feeds.put("more", Tensor.zeros(DType.INT64, 1));
            refused(() -> engine.run("encode", feeds, call.outputs), "input 'more' is missing or unknown");
            refuse(engine, call, "start", Tensor.zeros(DType.FLOAT32, 1), "input 'start' must be int64 of shape [1]");
            refuse(engine, call, "start", Tensor.zeros(DType.INT64), "must be int64 of shape [1]");
            refuse(engine, call, "start", Tensor.zeros(DType.INT64, 2), "input 'start' has [2], not [1]");
            refuse(engine, call, "tokens", Tensor.zeros(DType.INT64, 1, 9), "output 'new_key_0'", "[1, 8, 2, 32]");
            refuse(engine, call, "prefix_key_0", Tensor.zeros(DType.FLOAT32, 1, 65, 2, 32), "has [1, 64, 2, 32], not");
            Call wide = new Call(bundle, "encode", 64, 65);
            refused(() -> wide.on(engine), "C = 65 is outside 1…64");
            Call none = new Call(bundle, "encode", 0, 8);
            refused(() -> none.on(engine), " = 0 is outside 1…");
            Map<String, Tensor> outputs = new HashMap<>(call.outputs);
            outputs.put("new_key_3", Tensor.zeros(DType.FLOAT32, 1, 7, 2, 32));
            refused(() -> engine.run("encode", call.feeds, outputs), "output 'new_key_3'");
            call.on(engine);
        }
    }

    private static void refuse(Engine engine, Call call, String name, Tensor tensor, String... parts) {
        Map<String, Tensor> feeds = new HashMap<>(call.feeds);
        feeds.put(name, tensor);
        refused(() -> engine.run(call.graph, feeds, call.outputs), parts);
    }

    @Test
    public void aMovedBufferIsReadAndWrittenWhole() {
        try (Engine engine = tiny()) {
            Call straight = new Call(engine.bundle(), "denoise", 64, 1);
            Call moved = new Call(engine.bundle(), "denoise", 64, 1);
            moved.feeds.values().forEach(tensor -> tensor.data.position(tensor.data.capacity()));
            moved.outputs.values().forEach(tensor -> tensor.data.limit(1));
            straight.on(engine);
            moved.on(engine);
            moved.outputs.values().forEach(tensor -> tensor.data.clear());
            assertEquals(straight.outputs.get("next_soft").data, moved.outputs.get("next_soft").data);
        }
    }

    @Test
    public void anInterruptEndsTheRunThatRunsAndNoOther() throws Exception {
        try (Engine engine = tiny()) {
            Call call = new Call(engine.bundle(), "generate", 1024, 1);
            engine.interrupt(); // nothing runs
            call.on(engine);
            long committed = call.first("committed");
            int ended = 0;
            for (int i = 0; i < 5; i++) {
                Thread other = new Thread(() -> {
                    sleep(5);
                    engine.interrupt();
                });
                other.start();
                try {
                    call.on(engine);
                } catch (Engine.InterruptedRun error) {
                    assertEquals("graph 'generate' was interrupted", error.getMessage());
                    ended++;
                }
                other.join();
                call.on(engine);
                assertEquals(committed, call.first("committed"));
            }
            assertTrue("no run was ended", ended > 0);
        }
    }

    private static void sleep(int milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    @Test
    public void closeWaitsForTheRunAndNothingRunsAfterIt() throws Exception {
        Engine engine = tiny();
        Call call = new Call(engine.bundle(), "generate", 1024, 1);
        call.on(engine);
        AtomicReference<EngineException> error = new AtomicReference<>();
        Thread runs = new Thread(() -> {
            try {
                for (int i = 0; i < 100_000; i++) {
                    call.on(engine);
                }
            } catch (EngineException end) {
                error.set(end);
            }
        });
        runs.start();
        sleep(20);
        engine.close();
        runs.join(10_000);
        assertFalse(runs.isAlive());
        assertTrue(error.get().getMessage(), error.get().getMessage().matches(".*(interrupted|is closed).*"));
        engine.close();
        engine.interrupt();
        refused(() -> call.on(engine), "the engine is closed");
        refused(() -> engine.prepare("encode"), "the engine is closed");
    }

    @Test
    public void handlesOfTensorsThatAreGoneAreGone() {
        OnnxTensors tensors = new OnnxTensors(OnnxLibrary.environment());
        Tensor kept = Tensor.zeros(DType.BOOL, 1);
        try {
            Object first = tensors.of(kept);
            for (int run = 0; run < 1000; run++) {
                tensors.next();
                assertTrue(tensors.of(kept) == first);
                tensors.of(Tensor.zeros(DType.INT64, 1, 0));
                assertTrue(tensors.size() <= 2 * OnnxTensors.IDLE + 2);
            }
        } catch (ai.onnxruntime.OrtException error) {
            throw new AssertionError(error);
        } finally {
            tensors.close();
        }
        assertEquals(0, tensors.size());
    }

    @Test
    public void filesThatAreNotThoseOfTheManifestAreRefused() throws Exception {
        refuseBundle(path -> {}, values -> tensor(values, "denoise", "inputs", 0).put("name", "canvass"),
                "its inputs or outputs are not those of the manifest");
        refuseBundle(path -> {}, values -> tensor(values, "denoise", "outputs", 0).put("name", "next"),
                "its inputs or outputs are not those of the manifest");
        refuseBundle(path -> {}, values -> tensor(values, "denoise", "outputs", 2).put("dtype", "bool"),
                "output 'entropy' is not bool of rank 2");
        refuseBundle(path -> write(path.resolve("onnx/shared.onnx"), "hello"), values -> {}, "shared.onnx");
        refuseBundle(path -> write(path.resolve("onnx/weights.bin"), "hello"), values -> {}, "onnx 1.29.0 failed on graph");
        // a shape that is not the graph's: onnxruntime must refuse to write past the end
        Bundle lies = changed(path -> {}, values -> shape(tensor(values, "denoise", "outputs", 4)).set(2, 64L));
        try (Engine engine = Engines.open(lies, SessionOptions.DEFAULT)) {
            Call call = new Call(lies, "denoise", 64, 1);
            refused(() -> call.on(engine), "onnx 1.29.0 failed on graph 'denoise'");
        }
    }

    private void refuseBundle(java.util.function.Consumer<Path> files,
            java.util.function.Consumer<Map<String, Object>> manifest, String part) throws Exception {
        Bundle bundle = changed(files, manifest);
        try (Engine engine = Engines.open(bundle, SessionOptions.DEFAULT)) {
            refused(() -> engine.prepare("denoise"), part);
        }
    }

    private Bundle changed(java.util.function.Consumer<Path> files,
            java.util.function.Consumer<Map<String, Object>> manifest) throws Exception {
        return Fixtures.changed(bundle("tiny-w8"), folder.newFolder().toPath(), files, manifest);
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> tensor(Map<String, Object> values, String graph, String side, int index) {
        Map<String, Object> onnx = object(object(values.get("graphs")).get("onnx"));
        return object(((List<Object>) object(onnx.get(graph)).get(side)).get(index));
    }

    @SuppressWarnings("unchecked")
    private static List<Object> shape(Map<String, Object> tensor) {
        return (List<Object>) tensor.get("shape");
    }

    private static void write(Path path, String content) {
        try {
            Files.write(path, content.getBytes(StandardCharsets.UTF_8));
        } catch (java.io.IOException error) {
            throw new AssertionError(error);
        }
    }
}
