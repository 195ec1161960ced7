package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.bundle;
import static org.dgemma.runtime.engine.Fixtures.dims;
import static org.dgemma.runtime.engine.Fixtures.ints;
import static org.dgemma.runtime.engine.Fixtures.refused;
import static org.dgemma.runtime.engine.Fixtures.zeros;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Guidance;
import org.dgemma.runtime.Manifest.TensorSpec;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.SamplerOptions;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.ComputePolicy;
import org.junit.After;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;

/** The adapter on a player that knows a generation, recorded from ExecuTorch on a desktop by executorch-stubs/record.py. */
public class ExecuTorchEngineTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private static final SessionOptions OPTIONS = SessionOptions.DEFAULT.engine("executorch").threads(3);

    /** Answers with recorded results; every input must be the recorded one, by its hash. */
    private static final class Recorded implements Module.Player {
        final Map<String, ByteBuffer> arrays;
        final Bundle bundle;
        final List<String> calls = new ArrayList<>();
        int executed;
        boolean bytes;

        Recorded(Bundle bundle) throws IOException {
            this(bundle, "executorch-tiny.npz");
        }

        Recorded(Bundle bundle, String recording) throws IOException {
            this.bundle = bundle;
            arrays = Fixtures.recording(recording);
        }

        @Override
        public void load(String path, int loadMode, int threads) {
            calls.add("load " + path.endsWith("executorch/model.pte") + " " + loadMode + " " + threads);
        }

        @Override
        public String[] methods() {
            return new String[] {"encode", "denoise", "denoise_guided", "denoise_active", "generate", "decode", "check"};
        }

        @Override
        public void loadMethod(String method) {
            calls.add("loadMethod " + method);
        }

        @Override
        public EValue[] execute(String method, EValue... inputs) {
            calls.add(method);
            if (!hashes(inputs).equals(arrays.get(executed + ".inputs"))) {
                throw new IllegalStateException("call " + executed + " has other inputs than the recorded one");
            }
            List<TensorSpec> outputs = bundle.graph("executorch", method).outputs;
            EValue[] results = new EValue[outputs.size()];
            Map<String, Integer> dims = new HashMap<>();
            for (int i = 0; i < inputs.length; i++) {
                TensorSpec spec = bundle.graph("executorch", method).inputs.get(i);
                for (int axis = 0; axis < spec.shape.size(); axis++) {
                    dims.put(String.valueOf(spec.shape.get(axis)), (int) inputs[i].toTensor().shape()[axis]);
                }
            }
            Map<String, Tensor> shapes = zeros(outputs, dims);
            for (int i = 0; i < results.length; i++) {
                Tensor shape = shapes.get(outputs.get(i).name);
                results[i] = EValue.from(tensor(shape.dtype, shape.shape(), arrays.get(executed + "." + i)));
            }
            executed++;
            return results;
        }

        private org.pytorch.executorch.Tensor tensor(DType dtype, long[] shape, ByteBuffer recorded) {
            ByteBuffer data = recorded.duplicate().order(ByteOrder.nativeOrder());
            switch (dtype) {
                case FLOAT32: return org.pytorch.executorch.Tensor.fromBlob(data.asFloatBuffer(), shape);
                case INT64: return org.pytorch.executorch.Tensor.fromBlob(data.asLongBuffer(), shape);
                default: return bytes
                        ? org.pytorch.executorch.Tensor.fromBlobUnsigned(data.slice(), shape)
                        : new org.pytorch.executorch.Tensor.Tensor_unsupported(
                                data.slice(), shape, org.pytorch.executorch.DType.BOOL);
            }
        }

        @Override
        public void destroy() {
            calls.add("destroy");
        }
    }

    private static ByteBuffer hashes(EValue... inputs) {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        for (EValue input : inputs) {
            byte[] content = content(input.toTensor().getRawDataBuffer());
            java.security.MessageDigest digest = Seal.sha256();
            byte[] hash = digest.digest(content);
            all.write(hash, 0, hash.length);
        }
        return ByteBuffer.wrap(all.toByteArray());
    }

    private static byte[] content(Buffer buffer) {
        int size = buffer instanceof LongBuffer ? 8 : buffer instanceof FloatBuffer ? 4 : 1;
        ByteBuffer bytes = ByteBuffer.allocate(size * buffer.capacity()).order(ByteOrder.nativeOrder());
        if (buffer instanceof LongBuffer) {
            bytes.asLongBuffer().put(((LongBuffer) buffer).duplicate());
        } else if (buffer instanceof FloatBuffer) {
            bytes.asFloatBuffer().put(((FloatBuffer) buffer).duplicate());
        } else {
            bytes.duplicate().put(((ByteBuffer) buffer).duplicate());
        }
        return bytes.array();
    }

    @After
    public void forget() {
        Module.player = null;
    }

    @Test
    public void aGenerationGivesTheTokensOfPython() throws Exception {
        for (boolean bytes : new boolean[] {false, true}) {
            Recorded player = new Recorded(Bundle.open(bundle("tiny")));
            player.bytes = bytes;
            Module.player = player;
            GenerateOptions options = GenerateOptions.DEFAULT.seed(3).maxNewTokens(64).trace(true);
            Result result;
            try (Session session = Session.load(bundle("tiny"), OPTIONS)) {
                assertEquals("executorch", session.engine());
                result = session.generate(ints(player.arrays.get("prompt")), options, null);
            }
            assertArrayEquals(ints(player.arrays.get("tokens")), result.tokens);
            ByteBuffer accepted = player.arrays.get("accepted");
            for (int i = 0; i < accepted.capacity(); i++) {
                assertEquals(accepted.get(i) != 0, result.trajectory.accepted[i / 64][i % 64]);
            }
            List<String> calls = new ArrayList<>(Arrays.asList("load true 1 3", "loadMethod encode", "loadMethod denoise"));
            calls.add("encode");
            calls.addAll(Collections.nCopies(result.steps, "denoise"));
            calls.add("destroy");
            assertEquals(calls, player.calls);
        }
    }

    @Test
    public void aDraftGivesTheTokensOfPython() throws Exception {
        Recorded player = new Recorded(Bundle.open(bundle("tiny")), "executorch-tiny-draft.npz");
        Module.player = player;
        int[] prompt = ints(player.arrays.get("prompt"));
        GenerateOptions options = GenerateOptions.DEFAULT.seed(2).maxNewTokens(64);
        ComputePolicy draft = ComputePolicy.ALL.startWidthAuto().speculate(true);
        Result result;
        try (Session session = Session.load(bundle("tiny"), OPTIONS)) {
            result = session.generate(prompt, options.compute(draft), null);
        }
        assertArrayEquals(ints(player.arrays.get("tokens")), result.tokens);
        List<String> calls = new ArrayList<>(Arrays.asList("load true 1 3", "loadMethod encode"));
        calls.addAll(Arrays.asList("loadMethod denoise_active", "loadMethod check", "check"));
        calls.addAll(Collections.nCopies(result.steps, "denoise_active"));
        calls.addAll(Arrays.asList("check", "destroy"));
        assertEquals(calls, player.calls);
        Module.player = new Recorded(player.bundle, "executorch-tiny-draft.npz");
        try (Session session = Session.load(bundle("tiny"), OPTIONS)) {
            refused(() -> session.generate(prompt, options.compute(draft.earlyCommit(1e-9)), null),
                    "executorch unknown failed on graph 'denoise_active': call 2 has other inputs");
        }
    }

    @Test
    public void aGuidedGenerationGivesTheTokensOfPython() throws Exception {
        Recorded player = new Recorded(Bundle.open(bundle("tiny")), "executorch-tiny-guided.npz");
        Module.player = player;
        int[] prompt = ints(player.arrays.get("prompt"));
        Guidance away = Guidance.of(2).negative("Write 4271 in words.");
        GenerateOptions options = GenerateOptions.DEFAULT.seed(3).maxNewTokens(64).guidance(away)
                .sampler(SamplerOptions.EXPORTED.maxSteps(2));
        Result result;
        try (Session session = Session.load(bundle("tiny"), OPTIONS)) {
            result = session.generate(prompt, options, null);
        }
        assertArrayEquals(ints(player.arrays.get("tokens")), result.tokens);
        List<String> calls = new ArrayList<>(Arrays.asList("load true 1 3", "loadMethod encode", "loadMethod denoise"));
        calls.addAll(Arrays.asList("loadMethod denoise_guided", "encode", "encode"));
        calls.addAll(Collections.nCopies(2 * result.steps, "denoise_guided"));
        calls.add("destroy");
        assertEquals(calls, player.calls);
        Module.player = new Recorded(player.bundle, "executorch-tiny-guided.npz");
        try (Session session = Session.load(bundle("tiny"), OPTIONS)) {
            refused(() -> session.generate(prompt, options.guidance(Guidance.of(2)), null), "call 1 has other inputs");
        }
    }

    @Test
    public void otherNoiseIsNotTheRecordedGeneration() throws Exception {
        Recorded player = new Recorded(Bundle.open(bundle("tiny")));
        Module.player = player;
        try (Session session = Session.load(bundle("tiny"), OPTIONS)) {
            int[] prompt = ints(player.arrays.get("prompt"));
            refused(() -> session.generate(prompt, GenerateOptions.DEFAULT.seed(4).maxNewTokens(64), null),
                    "executorch unknown failed on graph 'denoise': call 1 has other inputs");
        }
    }

    @Test
    public void aBoolGoesInAsItsBytes() throws Exception {
        List<byte[]> seen = new ArrayList<>();
        Module.player = new Silent() {
            @Override
            public EValue[] execute(String method, EValue... inputs) {
                for (EValue input : inputs) {
                    if (input.toTensor().dtype() == org.pytorch.executorch.DType.BOOL) {
                        seen.add(content(input.toTensor().getRawDataBuffer()));
                    }
                }
                return new EValue[0];
            }
        };
        try (Engine engine = Engines.open(Bundle.open(bundle("tiny")), OPTIONS)) {
            Map<String, Tensor> feeds = zeros(engine.bundle().graph("executorch", "generate").inputs, dims(64, 1));
            Map<String, Tensor> outputs = zeros(engine.bundle().graph("executorch", "generate").outputs, dims(64, 1));
            feeds.get("adaptive").data.put(0, (byte) 1);
            refused(() -> engine.run("generate", feeds, outputs), "graph 'generate': gave 0 outputs instead of 6");
        }
        assertEquals(1, seen.size());
        assertArrayEquals(new byte[] {1}, seen.get(0));
    }

    @Test
    public void whatTheLibraryComplainsAboutIsOneLine() throws Exception {
        Module.player = new Silent() {
            @Override
            public EValue[] execute(String method, EValue... inputs) {
                return new EValue[] {EValue.from(org.pytorch.executorch.Tensor.fromBlob(LongBuffer.wrap(new long[0]), new long[] {1}))};
            }
        };
        Bundle bundle = Bundle.open(bundle("tiny"));
        try (Engine engine = Engines.open(bundle, OPTIONS)) {
            Map<String, Tensor> feeds = zeros(bundle.graph("executorch", "denoise").inputs, dims(64, 1));
            Map<String, Tensor> outputs = zeros(bundle.graph("executorch", "denoise").outputs, dims(64, 1));
            refused(() -> engine.run("denoise", feeds, outputs), "executorch unknown failed on graph 'denoise': Inconsistent");
        }
        Module.player = new Silent() {
            @Override
            public String[] methods() {
                return new String[] {"forward"};
            }
        };
        try (Engine engine = Engines.open(bundle, OPTIONS)) {
            refused(() -> engine.prepare("denoise"), "model.pte: has no method 'denoise'; export the bundle again");
        }
        Module.player = new Silent() {
            @Override
            public void load(String path, int loadMode, int threads) {
                throw new IllegalArgumentException("first\nsecond");
            }
        };
        try (Engine engine = Engines.open(bundle, OPTIONS)) {
            EngineException error = refused(() -> engine.prepare("denoise"), "failed on graph 'denoise': first");
            assertTrue(error.getCause() instanceof IllegalArgumentException);
        }
    }

    @Test
    public void aQuantizedMixtureNeedsItsOperator() throws Exception {
        Module.player = new Silent() {
            @Override
            public void loadMethod(String method) {
                throw new IllegalStateException("error 20");
            }
        };
        for (long bits : new long[] {8, 32}) {
            Bundle mixture = Fixtures.changed(bundle("tiny"), folder.newFolder().toPath(), path -> {}, values -> {
                Map<String, Object> model = Fixtures.object(values.get("model"));
                for (String name : new String[] {"num_experts", "top_k_experts", "moe_intermediate_size"}) {
                    model.put(name, 2L);
                }
                Map<String, Object> held = Fixtures.object(Fixtures.object(values.get("quantization")).get("bits"));
                held.put("experts", bits);
            });
            try (Engine engine = Engines.open(mixture, OPTIONS)) {
                String said = refused(() -> engine.prepare("denoise"), "error 20").getMessage();
                assertEquals(said, bits == 8, said.contains("needs the operator dgemma::experts.out"));
            }
        }
    }

    /** Has every method and gives nothing. */
    private static class Silent implements Module.Player {
        @Override
        public void load(String path, int loadMode, int threads) {}

        @Override
        public String[] methods() {
            return new String[] {"encode", "denoise", "generate", "decode"};
        }

        @Override
        public void loadMethod(String method) {}

        @Override
        public EValue[] execute(String method, EValue... inputs) {
            return new EValue[0];
        }

        @Override
        public void destroy() {}
    }
}
