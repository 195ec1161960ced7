package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assume.assumeFalse;

import java.io.File;
import org.dgemma.runtime.engine.NpuEngines;
import org.junit.Test;

/**
 * Contexts in Qualcomm's emulator: all that a phone does, but for its chip. {@code python tests/support/npu_bundle.py
 * build/tiny-npu-contexts.dgemma contexts} compiles them; {@code -Ddgemma.qnn.libraries} names the folder of onnxruntime_qnn.
 */
public class NpuEmulatorTest {
    /** Nats, between float16 and float32 around 16-bit activations. */
    private static final float ENTROPY = 2e-2f;

    private static File libraries() {
        String folder = System.getProperty("dgemma.qnn.libraries", "");
        assumeFalse("Qualcomm's emulator is not tested; -Ddgemma.qnn.libraries names its folder", folder.isEmpty());
        return new File(folder);
    }

    @Test
    public void contextsGiveThePythonTrajectory() throws Exception {
        File libraries = libraries();
        Bundle bundle = Bundle.open(Repository.bundle("tiny-npu-contexts"));
        try (Session session =
                new Session(NpuEngines.emulatedContexts(bundle, libraries), Speech.tokenizer(bundle))) {
            Golden golden = Golden.of(bundle.folder()).get(0);
            Trajectory found = golden.generate(session, Loop.HOST);
            assertEquals(null, golden.difference(found));
            System.out.println("contexts in the emulator: entropies within " + golden.entropyError(found));
            assertTrue("entropy error " + golden.entropyError(found), golden.entropyError(found) <= ENTROPY);
        }
    }

    @Test
    public void aSessionRunsTheEmulatorAndSaysSo() throws Exception {
        SessionOptions options = SessionOptions.DEFAULT.target(Target.QNN).npu(Npu.of("SM8650", libraries()));
        File folder = Repository.bundle("tiny-npu-w8a16");
        try (Session session = Session.load(folder, options)) {
            assertEquals("onnx/qnn (emulated SM8650)", session.placement().label);
            assertTrue(session.warnings().get(0), session.warnings().get(0).contains("runs in an emulator"));
            Golden golden = Golden.of(folder).get(0);
            Result result = session.generate(golden.promptIds, GenerateOptions.DEFAULT.seed(golden.seed), null);
            assertArrayEquals(golden.tokens, result.tokens);
        }
    }
}
