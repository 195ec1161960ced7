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
    public void aScheduleSaysWhatLiesBetween() throws Exception {
        Manifest.SamplerConfig sampler = manifest().sampler;
        SamplerOptions ends = EXPORTED.temperature(1, 0).maxSteps(4);
        assertArrayEquals(new float[] {1, 0.8535534f, 0.5f, 0.1464466f},
                ends.schedule(Schedule.COSINE).temperatures(sampler), 1e-7f);
        assertArrayEquals(ends.temperatures(sampler), ends.schedule(Schedule.LINEAR).temperatures(sampler), 0);
        assertArrayEquals(new double[] {4, 3, 2}, EXPORTED.entropyBound(4, 1).maxSteps(3).bounds(sampler), 1e-12);
        double[] bounds = {0.1, 0.2};
        SamplerOptions table = EXPORTED.schedule(Schedule.table(new double[0], bounds));
        bounds[0] = 9;
        assertArrayEquals("a copy", new double[] {0.1, 0.2}, table.bounds(sampler), 0);
        assertArrayEquals("as without the table", EXPORTED.maxSteps(2).temperatures(sampler), table.temperatures(sampler), 0);
        assertArrayEquals(new float[] {1e-20f, 2},
                EXPORTED.schedule(Schedule.table(new double[] {0.009, 2}, new double[0])).temperatures(sampler), 0);
    }

    @Test
    public void aScheduleThatCannotBeIsRefused() throws Exception {
        double[] none = {};
        double[] two = {0.5, 0.5};
        says(UsageException.class, "schedule: temperature must be a list of numbers from 0 to 100",
                () -> Schedule.table(new double[] {101}, none));
        says(UsageException.class, "schedule: entropyBound must be a list of positive numbers of nats",
                () -> Schedule.table(none, new double[] {0}));
        says(UsageException.class, "schedule has no values; give temperature, entropyBound or both",
                () -> Schedule.table(none, none));
        says(UsageException.class, "schedule has lists of different lengths", () -> Schedule.table(two, new double[] {1}));
        says(UsageException.class, "schedule has 4097 steps; at most 4096 are possible",
                () -> Schedule.table(new double[4097], none));
        SamplerOptions table = EXPORTED.schedule(Schedule.table(two, none));
        says(UsageException.class, "temperature is also in the table of schedule; leave one out", () -> table.temperature(1));
        says(UsageException.class, "maxSteps 3 differs from schedule, whose table has 2 steps; leave one out",
                () -> table.maxSteps(3));
        assertEquals(2, table.entropyBound(1).maxSteps(2).bounds(manifest().sampler).length);
        try (Session session = session(ToyEngine.of(200))) {
            SamplerOptions longer = EXPORTED.schedule(Schedule.table(new double[7], none));
            says(UsageException.class, "schedule has 7 steps and must be at most the exported 6; export with more steps",
                    () -> session.generate(PROMPT, options(longer), null));
        }
    }

    @Test
    public void aLeastLengthThatCannotBeIsRefused() {
        GenerateOptions some = GenerateOptions.DEFAULT.maxNewTokens(8).minTokens(8);
        says(UsageException.class, "minTokens 9 must be an integer from 0 to maxNewTokens, 8", () -> some.minTokens(9));
        says(UsageException.class, "minTokens needs decoder diffusion and loop host: otherwise only the likeliest id is taken",
                () -> some.loop(Loop.GRAPH));
        says(UsageException.class, "minTokens cannot be combined with stop, which can end it sooner; leave one out",
                () -> some.stop("x"));
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
        says(UsageException.class, "temperature -1.0 must be A or A:B, numbers from 0 to 100", () -> EXPORTED.temperature(-1));
        says(UsageException.class, "temperature (1.0, nan) must be", () -> EXPORTED.temperature(1, Double.NaN));
        says(UsageException.class, "maxSteps 0 must be an integer, 1 or more", () -> EXPORTED.maxSteps(0));
        says(UsageException.class, "confidence 0.0 must be a positive number of nats", () -> EXPORTED.confidence(0));
        says(UsageException.class, "stability -1 must be an integer, 0 or more", () -> EXPORTED.stability(-1));
        says(UsageException.class, "topK 0 must be an integer, 1 or more", () -> EXPORTED.topK(0));
        says(UsageException.class, "topP 0.0 must be a number above 0 and at most 1", () -> EXPORTED.topP(0));
        says(UsageException.class, "minP 1.5 must be a number above 0", () -> EXPORTED.minP(1.5));
        says(UsageException.class, "entropyBound nan must be a positive number of nats, or A:B",
                () -> EXPORTED.entropyBound(Double.NaN));
        try (Session session = session(ToyEngine.of(200))) {
            says(UsageException.class, "maxSteps 7 must be at most the exported 6; export with more steps",
                    () -> session.generate(PROMPT, options(EXPORTED.maxSteps(7)), null));
            says(UsageException.class, "topK 17 must be at most 16, the likeliest ids that a step of this bundle gives",
                    () -> session.generate(PROMPT, options(EXPORTED.topK(17)), null));
            says(UsageException.class, "topP and minP cannot be combined with loop graph: graph 'generate' returns no candidates; "
                    + "use host", () -> session.generate(PROMPT, options(EXPORTED.topP(0.5).minP(0.5)).loop(Loop.GRAPH), null));
            says(UsageException.class, "graph 'generate' was exported before it had inputs for temperature and maxSteps "
                    + "(temperatures, bounds, most_steps, confidence, stability); export it again, or use loop host",
                    () -> session.generate(PROMPT, options(EXPORTED.temperature(1).maxSteps(2)).loop(Loop.GRAPH), null));
            assertEquals(0, session.prefixIds().length);
        }
    }
}
