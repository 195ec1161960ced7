package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.bundle;
import static org.junit.Assert.assertTrue;
import static org.junit.Assume.assumeTrue;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Loop;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.SessionOptions;
import org.junit.Test;

/** Many generations in one process: what the host costs beside the engine, and whether memory stays flat. */
public class SoakTest {
    private static final int WARM_UP = 10;
    private static final int[] PROMPT = {2, 4, 608, 606, 592, 605, 6, 100, 101, 102, 5, 6, 4, 600, 602, 591, 592, 599, 6};

    /** Medians of single generations, as a test beside other work may be kept waiting in either part. */
    @Test
    public void theHostTakesLittleOfAStep() {
        for (Loop loop : Loop.values()) {
            try (Session session = Session.load(bundle("tiny"), SessionOptions.DEFAULT.threads(1))) {
                GenerateOptions options = GenerateOptions.DEFAULT.maxNewTokens(64).adaptive(false).loop(loop);
                double[] shares = new double[20];
                double[] steps = new double[shares.length];
                for (int i = 0; i < shares.length + WARM_UP; i++) {
                    Result result = session.generate(PROMPT, options.seed(i), null);
                    double all = result.timings.prefillS + result.timings.denoiseS + result.timings.commitS;
                    if (i >= WARM_UP) {
                        shares[i - WARM_UP] = 1 - result.timings.engineS / all;
                        steps[i - WARM_UP] = result.timings.denoiseS / result.steps;
                    }
                }
                Arrays.sort(shares);
                Arrays.sort(steps);
                double share = shares[shares.length / 2];
                System.out.println(String.format(Locale.ROOT, "%s loop: %.2f %% of a generation outside the engine, %.2f ms a "
                        + "step (medians of %d)", loop.word(), 100 * share, 1e3 * steps[steps.length / 2], shares.length));
                assertTrue("outside the engine: " + share, share <= 0.05);
            }
        }
    }

    @Test
    public void aThousandGenerationsTakeNoMemory() throws Exception {
        assumeTrue("takes minutes; run with -Ddgemma.slow=true", Boolean.getBoolean("dgemma.slow"));
        flat(200, 1000, 16 << 10);
    }

    @Test
    public void sixtyGenerationsTakeNoMemory() throws Exception {
        flat(60, 60, 32 << 10); // the collector's own memory still grows
    }

    private static void flat(int warmUp, int count, long limit) throws Exception {
        try (Session session = Session.load(bundle("tiny"), SessionOptions.DEFAULT)) {
            run(session, warmUp);
            long[] before = memory();
            run(session, count);
            long[] after = memory();
            System.out.println(String.format(Locale.ROOT, "%d generations: RssAnon %+d kB of %d, heap in use %+d kB of %d", count,
                    after[0] - before[0], before[0], after[1] - before[1], before[1]));
            assertTrue("heap grew by " + (after[1] - before[1]) + " kB", after[1] - before[1] < 2048);
            assertTrue("RssAnon grew by " + (after[0] - before[0]) + " kB", after[0] - before[0] < limit);
        }
    }

    private static void run(Session session, int count) {
        for (int i = 0; i < count; i++) {
            Loop loop = i % 4 == 3 ? Loop.GRAPH : Loop.HOST;
            session.generate(PROMPT, GenerateOptions.DEFAULT.maxNewTokens(64).seed(i).loop(loop), event -> {});
        }
    }

    /** kB of anonymous memory of the process and of live objects; the collected heap stays resident, so it counts in both. */
    private static long[] memory() throws Exception {
        File status = new File("/proc/self/status");
        assumeTrue("this system has no /proc/self/status", status.exists());
        for (int i = 0; i < 3; i++) {
            System.gc();
            Thread.sleep(50);
        }
        Matcher found = Pattern.compile("RssAnon:\\s+(\\d+) kB").matcher(
                new String(Files.readAllBytes(status.toPath()), StandardCharsets.UTF_8));
        assertTrue(found.find());
        Runtime runtime = Runtime.getRuntime();
        return new long[] {Long.parseLong(found.group(1)), (runtime.totalMemory() - runtime.freeMemory()) >> 10};
    }
}
