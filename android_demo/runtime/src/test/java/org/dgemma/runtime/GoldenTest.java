package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertTrue;

import java.io.File;
import org.junit.Test;

/**
 * The golden trajectories of the shipped bundles, made by the Python runtime and ONNX Runtime 1.32, on ONNX Runtime for
 * Java.
 *
 * <p>Float32 graphs give the same canvases in all these versions. 8-bit kernels differ between versions, and near-ties
 * then fall otherwise: those are counted; {@code same_tokens.py} shows that Python does the same on the same version.
 */
public class GoldenTest {
    /** Nats; float32 kernels of ONNX Runtime 1.29 and 1.32 sum in other orders. */
    private static final float ENTROPY = 2e-3f;

    @Test
    public void floatBundleGivesTheGoldenCanvases() throws Exception {
        File bundle = Repository.bundle("tiny");
        try (Session session = Session.load(bundle, SessionOptions.DEFAULT.engine("onnx"))) {
            float worst = 0;
            for (Golden golden : Golden.of(bundle)) {
                for (Loop loop : Loop.values()) {
                    Trajectory t = golden.generate(session, loop);
                    assertEquals(loop.word(), null, golden.difference(t));
                    worst = Math.max(worst, golden.entropyError(t));
                }
            }
            System.out.println("tiny: 10 of 10 golden trajectories equal, entropies within " + worst + " nats");
            assertTrue("entropy error " + worst, worst <= ENTROPY);
        }
    }

    @Test
    public void anotherSeedIsNoticed() throws Exception {
        File bundle = Repository.bundle("tiny");
        try (Session session = Session.load(bundle, SessionOptions.DEFAULT.engine("onnx"))) {
            for (Golden golden : Golden.of(bundle)) {
                assertNotNull(golden.difference(golden.generate(session, Loop.HOST, golden.seed + 1)));
            }
        }
    }

    @Test
    public void quantizedBundlesAreCounted() throws Exception {
        for (String name : new String[] {"tiny-w8", "tiny-w4-mixed", "tiny-w4", "tiny-w4-all"}) {
            Golden.count(name);
        }
    }
}
