package org.dgemma.runtime;

import static org.dgemma.runtime.SessionTest.PROMPT;
import static org.dgemma.runtime.SessionTest.says;
import static org.dgemma.runtime.SessionTest.session;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.Test;

/** Options of the sampler: what they make of a bundle's, what each loop does with them, and what is refused. */
public class SamplerOptionsTest {
    private static final SamplerOptions EXPORTED = SamplerOptions.EXPORTED;

    private static Manifest manifest() throws Exception {
        return ToyEngine.of(200).bundle().manifest();
    }

    private static GenerateOptions options(SamplerOptions sampler) {
        return GenerateOptions.DEFAULT.sampler(sampler);
    }

    @Test
    public void temperaturesFallFromOneEndTowardsTheOther() throws Exception {
        Manifest manifest = manifest(); // 6 steps, 0.8 to 0.4
        float[] exported = EXPORTED.temperatures(manifest.sampler);
        for (int i = 0; i < 6; i++) {
            assertEquals((float) manifest.sampler.temperature(6 - i), exported[i], 0);
        }
        assertArrayEquals(new float[] {1, 0.8f, 0.6f, 0.4f},
                EXPORTED.temperature(1, 0.2).maxSteps(4).temperatures(manifest.sampler), 1e-6f);
        assertArrayEquals(new float[] {0.8f, 0.6f}, EXPORTED.maxSteps(2).temperatures(manifest.sampler), 1e-6f);
        assertArrayEquals(new float[] {1e-20f}, EXPORTED.temperature(0).maxSteps(1).temperatures(manifest.sampler), 0);
    }

    @Test
    public void theLoopRunsByThem() throws Exception {
        try (Session session = session(ToyEngine.of(200, 201, 202, 203, 204))) {
            assertEquals(4, session.generate(PROMPT, GenerateOptions.DEFAULT, null).steps);
            Trajectory hot = session.generate(
                    PROMPT, options(EXPORTED.temperature(2, 1).maxSteps(5)).trace(true), null).trajectory;
            assertNotNull(hot);
            List<Integer> remaining = new ArrayList<>();
            for (int i = 0; i < hot.step.length; i++) {
                remaining.add(hot.step[i]);
                assertEquals(2 - 0.2 * i, hot.temperature[i], 1e-6);
            }
            assertEquals(Arrays.asList(5, 4, 3, 2), remaining);
            assertEquals(5, session.generate(PROMPT, options(EXPORTED.stability(2)), null).steps);
            GenerateOptions one = options(EXPORTED.stability(0).confidence(1)).maxNewTokens(ToyBundle.N);
            assertEquals(1, session.generate(PROMPT, one, null).steps);
            assertEquals(2, session.generate(PROMPT, options(EXPORTED.maxSteps(2)).maxNewTokens(16), null).steps);
            assertEquals(4, session.generate(PROMPT, GenerateOptions.DEFAULT, null).steps); // nothing stays
        }
    }

    @Test
    public void whatCannotBeIsRefused() throws Exception {
        says(UsageException.class, "temperature -1.0 must be a number from 0 to 100", () -> EXPORTED.temperature(-1));
        says(UsageException.class, "temperature NaN must be", () -> EXPORTED.temperature(1, Double.NaN));
        says(UsageException.class, "maxSteps 0 must be 1 or more", () -> EXPORTED.maxSteps(0));
        says(UsageException.class, "confidence 0.0 must be a positive number of nats", () -> EXPORTED.confidence(0));
        says(UsageException.class, "stability -1 must be 0 or more", () -> EXPORTED.stability(-1));
        says(UsageException.class, "topK 0 must be 1 or more", () -> EXPORTED.topK(0));
        says(UsageException.class, "topP 0.0 must be a number above 0 and at most 1", () -> EXPORTED.topP(0));
        says(UsageException.class, "minP 1.5 must be a number above 0", () -> EXPORTED.minP(1.5));
        says(UsageException.class, "entropyBound NaN must be a positive number", () -> EXPORTED.entropyBound(Double.NaN));
        try (Session session = session(ToyEngine.of(200))) {
            says(UsageException.class, "maxSteps 7 must be at most the exported 6; export with more --steps",
                    () -> session.generate(PROMPT, options(EXPORTED.maxSteps(7)), null));
            says(UsageException.class, "topK 17 must be at most 16, the likeliest ids that a step of this bundle gives",
                    () -> session.generate(PROMPT, options(EXPORTED.topK(17)), null));
            says(UsageException.class, "topP, minP do not work with loop graph, which returns no candidates; use loop host", () -> session.generate(
                    PROMPT, options(EXPORTED.topP(0.5).minP(0.5)).loop(Loop.GRAPH), null));
            says(UsageException.class, "graph 'generate' was exported before it had inputs for temperature, maxSteps "
                    + "(temperatures, bounds, most_steps, confidence, stability); export it again, or use loop host",
                    () -> session.generate(PROMPT, options(EXPORTED.temperature(1).maxSteps(2)).loop(Loop.GRAPH), null));
            assertEquals(0, session.prefixIds().length);
        }
    }
}
