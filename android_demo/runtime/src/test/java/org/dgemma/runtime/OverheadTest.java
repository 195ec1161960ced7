package org.dgemma.runtime;

import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import org.junit.Test;

/** What the host does around the engine, as a share of a generation of the shipped bundle. */
public class OverheadTest {
    private static final int WARM_UP = 15;
    private static final int RUNS = 7;
    private static final double MOST = 0.05;

    /**
     * Quartiles of (total − native) / total, loading left out. The first one is judged: on a busy machine the host's
     * thread also loses its core between calls, which only adds.
     */
    private static double[] shares(Session session, GenerateOptions options, StepListener steps) {
        double[] shares = new double[RUNS];
        for (int i = 0; i < RUNS; i++) {
            Timings t = session.generate("Reverse the word table.", options.seed(i), steps).timings;
            shares[i] = 1 - t.engineS / (t.totalS - t.loadS);
        }
        Arrays.sort(shares);
        return new double[] {shares[RUNS / 4], shares[RUNS / 2], shares[3 * RUNS / 4]};
    }

    @Test
    public void hostLoopTakesAtMostFivePercent() {
        SessionOptions one = SessionOptions.DEFAULT.engine("onnx").threads(1);
        try (Session session = Session.load(Repository.bundle("tiny"), one)) {
            GenerateOptions options = GenerateOptions.DEFAULT.adaptive(false).maxNewTokens(64);
            for (int i = 0; i < WARM_UP; i++) { // until the loop is compiled
                session.generate("Reverse the word table.", options, event -> {});
            }
            double[] plain = shares(session, options, null);
            double[] watched = shares(session, options, event -> {});
            double[] slow = shares(session, options.maxNewTokens(1), event -> {
                long end = System.nanoTime() + 2_000_000;
                while (System.nanoTime() < end) {
                    Thread.yield();
                }
            });
            System.out.println("host share of a tiny generation, quartiles: " + Arrays.toString(plain)
                    + ", with events " + Arrays.toString(watched));
            assertTrue(Arrays.toString(plain), plain[0] <= MOST);
            assertTrue(Arrays.toString(watched), watched[0] <= MOST);
            assertTrue("control: 2 ms a step must be noticed", slow[0] > MOST);
        }
    }
}
