package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.List;
import java.util.Map;
import org.junit.Test;

/** The shared sampling vectors against a sampler written in Java from the contract. */
public class SamplingTest {
    @SuppressWarnings("unchecked")
    private static List<Map<String, Object>> cases(String name) throws Exception {
        return (List<Map<String, Object>>) Repository.json("tests/vectors/sampling.json").get(name);
    }

    @SuppressWarnings("unchecked")
    private static float[] weights(Map<String, Object> each) {
        if (each.containsKey("weights")) {
            return NaiveSampler.floats(each.get("weights"));
        }
        Map<String, Object> source = (Map<String, Object>) each.get("generated");
        long[] words = new long[((Number) source.get("vocab")).intValue()];
        Noise.words(((Number) source.get("seed")).longValue(), words);
        int power = ((Number) source.get("power")).intValue();
        float[] weights = new float[words.length];
        for (int i = 0; i < words.length; i++) {
            float u = (float) NaiveSampler.uniform(words[i]);
            weights[i] = u;
            for (int k = 1; k < power; k++) {
                weights[i] *= u;
            }
        }
        return weights;
    }

    static boolean[] booleans(Object list) {
        List<?> values = (List<?>) list;
        boolean[] flags = new boolean[values.size()];
        for (int i = 0; i < flags.length; i++) {
            Object value = values.get(i);
            flags[i] = value instanceof Boolean ? (Boolean) value : ((Number) value).intValue() != 0;
        }
        return flags;
    }

    @Test
    public void inverseCdf() throws Exception {
        boolean oneSumFails = false;
        for (Map<String, Object> each : cases("inverse_cdf")) {
            float[] weights = weights(each);
            long word = ((Number) each.get("word")).longValue();
            int token = ((Number) each.get("token")).intValue();
            assertEquals(each.get("name") + " word " + word, token, NaiveSampler.draw(weights, word));
            oneSumFails |= oneRunningSum(weights, word) != token;
        }
        assertTrue("control: one float32 running sum must draw other tokens", oneSumFails);
    }

    private static int oneRunningSum(float[] weights, long word) {
        float total = 0;
        for (float weight : weights) {
            total += weight;
        }
        float target = (float) NaiveSampler.uniform(word) * total;
        float running = 0;
        for (int v = 0; v < weights.length; v++) {
            running += weights[v];
            if (running > target) {
                return v;
            }
        }
        return weights.length - 1;
    }

    @Test
    public void accept() throws Exception {
        for (Map<String, Object> each : cases("accept")) {
            boolean[] accepted = NaiveSampler.accept(
                    NaiveSampler.floats(each.get("entropy")), ((Number) each.get("bound")).doubleValue());
            assertArrayEquals((String) each.get("name"), booleans(each.get("accepted")), accepted);
        }
    }

    @Test
    public void entropyAndStep() throws Exception {
        for (Map<String, Object> each : cases("entropy")) {
            assertEquals(((Number) each.get("entropy")).doubleValue(),
                    NaiveSampler.entropy(NaiveSampler.floats(each.get("logits"))),
                    ((Number) each.get("tolerance")).doubleValue());
        }
        for (Map<String, Object> each : cases("step")) {
            List<?> rows = (List<?>) each.get("tempered");
            float[][] tempered = new float[rows.size()][];
            for (int i = 0; i < tempered.length; i++) {
                tempered[i] = NaiveSampler.floats(rows.get(i));
            }
            List<?> words = (List<?>) each.get("words");
            NaiveSampler step = new NaiveSampler(tempered, NoiseTest.longs(words.get(0)), NoiseTest.longs(words.get(1)),
                    ((Number) each.get("bound")).doubleValue());
            assertArrayEquals(NoiseTest.longs(each.get("canvas")), step.canvas);
            assertArrayEquals(NaiveSampler.floats(each.get("argmax")), floats(step.argmax), 0);
            assertArrayEquals(booleans(each.get("accepted")), step.accepted);
            assertArrayEquals(NaiveSampler.floats(each.get("entropy")), step.entropy,
                    ((Number) each.get("tolerance")).floatValue());
        }
    }

    private static float[] floats(int[] values) {
        float[] floats = new float[values.length];
        for (int i = 0; i < floats.length; i++) {
            floats[i] = values[i];
        }
        return floats;
    }
}
