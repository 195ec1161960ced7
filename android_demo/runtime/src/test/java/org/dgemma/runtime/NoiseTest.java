package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertTrue;

import java.util.List;
import java.util.Map;
import org.junit.Test;

/** The shared noise vectors, and a naive twin of the unrolled rounds. */
public class NoiseTest {
    private static final int[][] ROTATIONS = {{13, 15, 26, 6}, {17, 29, 16, 24}};

    @SuppressWarnings("unchecked")
    private static List<Map<String, Object>> cases(String name) throws Exception {
        return (List<Map<String, Object>>) Repository.json("tests/vectors/noise.json").get(name);
    }

    static long[] longs(Object list) {
        return ((List<?>) list).stream().mapToLong(value -> ((Number) value).longValue()).toArray();
    }

    private static long pair(long high, long low) {
        return high << 32 | low;
    }

    /** The rounds one by one, in 64-bit arithmetic. */
    private static long naive(long key, long high, long low) {
        long mask = 0xffffffffL;
        long[] ks = {key >>> 32, key & mask, (key >>> 32 ^ key & mask ^ 0x1BD11BDA) & mask};
        long a = high + ks[0] & mask;
        long b = low + ks[1] & mask;
        for (int group = 0; group < 5; group++) {
            for (int rotation : ROTATIONS[group % 2]) {
                a = a + b & mask;
                b = (b << rotation | b >>> 32 - rotation) & mask ^ a;
            }
            a = a + ks[(group + 1) % 3] & mask;
            b = b + ks[(group + 2) % 3] + group + 1 & mask;
        }
        return pair(a, b);
    }

    @Test
    public void threefry() throws Exception {
        for (Map<String, Object> each : cases("threefry")) {
            long[] key = longs(each.get("key"));
            long[] counter = longs(each.get("counter"));
            long[] output = longs(each.get("output"));
            long expected = pair(output[0], output[1]);
            assertEquals(expected, Noise.threefry(pair(key[0], key[1]), (int) counter[0], (int) counter[1]));
            assertEquals(expected, naive(pair(key[0], key[1]), counter[0], counter[1]));
        }
        long key = 42;
        for (int i = 0; i < 1000; i++) {
            long next = Noise.threefry(key, i, -i);
            assertEquals(naive(key, i & 0xffffffffL, -i & 0xffffffffL), next);
            key = next;
        }
    }

    @Test
    public void streams() throws Exception {
        assertTrue(cases("streams").size() >= 20);
        for (Map<String, Object> each : cases("streams")) {
            long seed = Long.parseUnsignedLong((String) each.get("seed"));
            int canvas = ((Number) each.get("canvas")).intValue();
            int stream = ((Number) each.get("stream")).intValue();
            long[] key = longs(each.get("key"));
            long[] expected = longs(each.get("words"));
            assertEquals(pair(key[0], key[1]), Noise.streamKey(seed, canvas, stream));
            long[] words = new long[expected.length];
            Noise.words(Noise.streamKey(seed, canvas, stream), words);
            assertArrayEquals(expected, words);
            Noise.words(Noise.streamKey(seed + 1, canvas, stream), words);
            assertNotEquals("control", expected[0], words[0]);
        }
    }

    @Test
    public void tokens() throws Exception {
        boolean signedWordsDiffer = false;
        for (Map<String, Object> each : cases("tokens")) {
            long word = ((Number) each.get("word")).longValue();
            int vocab = ((Number) each.get("vocab")).intValue();
            long token = ((Number) each.get("token")).longValue();
            assertEquals(token, Noise.token(word, vocab));
            signedWordsDiffer |= ((long) (int) word * vocab) >>> 32 != token;
        }
        assertTrue("control: words read as signed must fail", signedWordsDiffer);
    }

    @Test
    public void uniforms() throws Exception {
        for (Map<String, Object> each : cases("uniforms")) {
            long word = ((Number) each.get("word")).longValue();
            assertEquals(((Number) each.get("uniform")).doubleValue(), NaiveSampler.uniform(word), 0);
        }
    }
}
