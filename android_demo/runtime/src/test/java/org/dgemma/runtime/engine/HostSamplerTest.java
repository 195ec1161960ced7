package org.dgemma.runtime.engine;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.nio.FloatBuffer;
import java.util.Random;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.NaiveSampler;
import org.dgemma.runtime.Repository;
import org.dgemma.runtime.TargetSpec;
import org.junit.Test;

/** The sampler behind an NPU against the one that is written from the contract's text. */
public class HostSamplerTest {
    private static final int ROWS = 24;

    private final Bundle bundle = Bundle.open(Repository.bundle("tiny-npu-fp32"));
    private final TargetSpec spec = bundle.manifest().targets.get("qnn:SM8650");
    private final int vocab = bundle.manifest().model.vocabSize;
    private final IdTable table = new IdTable(bundle, spec.table, 11.3f);
    private final Random random = new Random(7);

    private HostSampler sampler(int threads, int[]... tiles) {
        return new HostSampler(tiles, bundle.manifest().model, bundle.manifest().sampler, table, new Rows(threads));
    }

    private static HostSampler.Products products(float[][] rows, int[]... tiles) {
        return tile -> {
            int size = tiles[tile][1] - tiles[tile][0];
            FloatBuffer found = FloatBuffer.allocate(rows.length * size);
            for (float[] row : rows) {
                found.put(row, tiles[tile][0], size);
            }
            return found;
        };
    }

    private float[][] rows() {
        float[][] rows = new float[ROWS][vocab];
        for (int i = 0; i < ROWS; i++) {
            for (int v = 0; v < vocab; v++) {
                rows[i][v] = (float) random.nextGaussian() * (i % 8); // from uniform to steep
            }
            rows[i][300] = rows[i][200]; // a tie
        }
        return rows;
    }

    private long[][] words() {
        long[][] words = new long[2][ROWS];
        for (int i = 0; i < 2 * ROWS; i++) {
            words[i / ROWS][i % ROWS] = random.nextInt() & 0xffffffffL;
        }
        return words;
    }

    @Test
    public void oneTileOrSeveralGiveWhatTheContractSays() throws Exception {
        int[][] one = {{0, vocab}};
        int[][] three = {{0, 256}, {256, 512}, {512, vocab}};
        for (int round = 0; round < 20; round++) {
            float[][] rows = rows();
            long[][] words = words();
            float temperature = 0.4f + 0.02f * round;
            float[][] tempered = new float[ROWS][vocab];
            for (int i = 0; i < ROWS; i++) {
                for (int v = 0; v < vocab; v++) {
                    tempered[i][v] = (float) (30 * Math.tanh(rows[i][v] / 30)) / temperature;
                }
            }
            NaiveSampler naive = new NaiveSampler(tempered, words[0], words[1], bundle.manifest().sampler.entropyBound);
            for (int[][] tiles : new int[][][] {one, three}) {
                HostSampler.Drawn drawn = sampler(tiles.length, tiles).sample(products(rows, tiles), ROWS, words, temperature);
                assertArrayEquals(naive.entropy, drawn.entropy, 1e-5f);
                assertArrayEquals(naive.canvas, drawn.canvas);
                for (int i = 0; i < ROWS; i++) {
                    assertEquals(naive.argmax[i], drawn.argmax[i]);
                    assertEquals(naive.accepted[i], drawn.accepted[i]);
                }
                assertSoft(tempered, drawn);
                assertCandidates(tempered, drawn);
                long[] next = sampler(1, tiles).next(products(rows, tiles), ROWS);
                assertArrayEquals(drawn.argmax, next);
            }
        }
    }

    private static double[] probabilities(float[] tempered) {
        double[] found = new double[tempered.length];
        double total = 0;
        for (float value : tempered) {
            total += Math.exp(value);
        }
        for (int v = 0; v < found.length; v++) {
            found[v] = Math.exp(tempered[v]) / total;
        }
        return found;
    }

    private void assertSoft(float[][] tempered, HostSampler.Drawn drawn) {
        float[] embedded = new float[table.hidden];
        for (int i = 0; i < ROWS; i++) {
            double[] mean = new double[table.hidden];
            double[] probabilities = probabilities(tempered[i]);
            for (int v = 0; v < vocab; v++) {
                table.embed(v, embedded);
                for (int d = 0; d < mean.length; d++) {
                    mean[d] += probabilities[v] * embedded[d];
                }
            }
            for (int d = 0; d < mean.length; d++) {
                assertEquals(mean[d], drawn.soft[i * mean.length + d], 1e-4);
            }
        }
    }

    private void assertCandidates(float[][] tempered, HostSampler.Drawn drawn) {
        int kept = drawn.likeliest.length / ROWS;
        assertEquals(16, kept);
        for (int i = 0; i < ROWS; i++) {
            double[] probabilities = probabilities(tempered[i]);
            for (int k = 0; k < kept; k++) {
                int id = (int) drawn.likeliest[i * kept + k];
                assertEquals(Math.log(probabilities[id]), drawn.logProbs[i * kept + k], 1e-4);
                if (k > 0) {
                    int before = (int) drawn.likeliest[i * kept + k - 1];
                    assertTrue(tempered[i][before] >= tempered[i][id]);
                }
            }
        }
    }
}
