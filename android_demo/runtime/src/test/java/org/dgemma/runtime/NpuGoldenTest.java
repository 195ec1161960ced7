package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.List;
import org.dgemma.runtime.engine.NpuEngines;
import org.junit.Test;

/**
 * An NPU's graphs of tiny on the processor, by the code that runs them on an NPU, against what Python's engine generated from the
 * same graphs; tests/support/npu_bundle.py made both.
 */
public class NpuGoldenTest {
    /** In nats: float32 sums in another order. */
    private static final float FLOAT = 1e-4f;
    /** 16-bit activations enlarge differences of the last bit; as many threads more in Python move entropies by 1e-2. */
    private static final float ROUNDED = 5e-2f;

    private static final String PROMPT = "Write 4271 in words.";
    private static final GenerateOptions OPTIONS = GenerateOptions.DEFAULT.maxNewTokens(64).seed(5);

    private static Session session(File folder) {
        Bundle bundle = Bundle.open(folder);
        return new Session(NpuEngines.onProcessor(bundle, 1), Speech.tokenizer(bundle));
    }

    /** How many trajectories are Python's; their entropies must be as close as that. */
    private static int equal(String name, float tolerance) throws Exception {
        File folder = Repository.bundle(name);
        int equal = 0;
        int longest = 0;
        float worst = 0;
        List<Golden> all = Golden.of(folder);
        try (Session session = session(folder)) {
            for (Golden golden : all) {
                Trajectory found = golden.generate(session, Loop.HOST);
                if (golden.difference(found) == null) {
                    equal++;
                    worst = Math.max(worst, golden.entropyError(found));
                }
                longest = Math.max(longest, golden.promptIds.length);
            }
            // the control: other noise, another trajectory
            assertNotNull(all.get(0).difference(all.get(0).generate(session, Loop.HOST, all.get(0).seed + 1)));
            assertTrue("no prompt is longer than the window", longest > session.bundle().manifest().model.slidingWindow);
        }
        System.out.println(name + ": " + equal + " of " + all.size() + " golden trajectories equal, entropies within " + worst);
        assertEquals(5, all.size());
        assertTrue("entropy error " + worst, worst <= tolerance);
        return equal;
    }

    @Test
    public void everyTrajectoryInFloatIsPythonsOfTheSameGraphs() throws Exception {
        assertEquals(5, equal("tiny-npu-fp32", FLOAT));
    }

    /** Here all five were; on another processor a near-tie of the longest may fall otherwise. */
    @Test
    public void withIntegersAtMostOneTrajectoryDiffers() throws Exception {
        assertTrue(equal("tiny-npu-w8a16", ROUNDED) >= 4);
    }

    @Test
    public void everyGraphOfTheEngineGivesPythonsTokens() throws Exception {
        for (String recipe : new String[] {"fp32", "w8a16"}) {
            File folder = Repository.bundle("tiny-npu-" + recipe);
            Npz python = Npz.read(new File(folder, "golden.npz"));
            try (Session session = session(folder)) {
                ComputePolicy early = ComputePolicy.ALL.earlyCommit(0.1);
                for (String name : new String[] {"active", "checked"}) {
                    GenerateOptions options = OPTIONS.compute(early.speculate(name.equals("checked")));
                    Result result = session.generate(PROMPT, options, null);
                    assertArrayEquals(name, python.ints(name + "_tokens"), result.tokens);
                    int[] counts = {result.steps, (int) result.positionForwards};
                    assertArrayEquals(name, python.ints(name + "_counts"), counts);
                }
                Result decoded = session.decodeGreedy(PROMPT, OPTIONS);
                assertArrayEquals(python.ints("decoded_tokens"), decoded.tokens);
                assertEquals("onnx/qnn sources (SM8650)", decoded.engine);
            }
        }
    }

    @Test
    public void aCancelEndsTheStepAndLeavesTheSessionUsable() throws Exception {
        try (Session session = session(Repository.bundle("tiny-npu-fp32"))) {
            Result whole = session.generate(PROMPT, OPTIONS.adaptive(false), null);
            Result cut = session.generate(PROMPT, OPTIONS.adaptive(false), event -> session.cancel());
            assertEquals(StopReason.CANCELLED, cut.stopReason);
            assertTrue(cut.steps < whole.steps);
            assertArrayEquals(whole.tokens, session.generate(PROMPT, OPTIONS.adaptive(false), null).tokens);
        }
    }

    @Test
    public void theSessionSaysWhatRunsWhere() throws Exception {
        try (Session session = session(Repository.bundle("tiny-npu-fp32"))) {
            Placement placement = session.placement();
            assertEquals("onnx", session.engine());
            assertEquals("onnx/qnn sources (SM8650)", placement.label);
            assertTrue(placement.usesNpu());
            assertEquals("npu", placement.parts.get("self-conditioning, layers, products of the head"));
            assertEquals("cpu", placement.parts.get("cap, sampler, soft embedding"));
        }
    }
}
