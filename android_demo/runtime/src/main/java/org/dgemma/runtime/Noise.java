package org.dgemma.runtime;

/**
 * The noise contract: every random word comes from one 64-bit seed by threefry2x32 (Salmon et al., SC 2011; 20 rounds),
 * in JAX's partitionable layout.
 *
 * <p>A key, and a result, is a pair of 32-bit words in one long, the first word high; so the key of a seed is the seed,
 * its bits read as unsigned. Words are handed out as longs in 0 … 2³²−1, which is how graphs take them.
 */
final class Noise {
    private static final int PARITY = 0x1BD11BDA;
    private static final long LOW = 0xffffffffL;

    private Noise() {}

    static long threefry(long key, int high, int low) {
        int k0 = (int) (key >>> 32);
        int k1 = (int) key;
        int k2 = k0 ^ k1 ^ PARITY;
        int a = high + k0;
        int b = low + k1;
        a += b; b = Integer.rotateLeft(b, 13) ^ a;
        a += b; b = Integer.rotateLeft(b, 15) ^ a;
        a += b; b = Integer.rotateLeft(b, 26) ^ a;
        a += b; b = Integer.rotateLeft(b, 6) ^ a;
        a += k1; b += k2 + 1;
        a += b; b = Integer.rotateLeft(b, 17) ^ a;
        a += b; b = Integer.rotateLeft(b, 29) ^ a;
        a += b; b = Integer.rotateLeft(b, 16) ^ a;
        a += b; b = Integer.rotateLeft(b, 24) ^ a;
        a += k2; b += k0 + 2;
        a += b; b = Integer.rotateLeft(b, 13) ^ a;
        a += b; b = Integer.rotateLeft(b, 15) ^ a;
        a += b; b = Integer.rotateLeft(b, 26) ^ a;
        a += b; b = Integer.rotateLeft(b, 6) ^ a;
        a += k0; b += k1 + 3;
        a += b; b = Integer.rotateLeft(b, 17) ^ a;
        a += b; b = Integer.rotateLeft(b, 29) ^ a;
        a += b; b = Integer.rotateLeft(b, 16) ^ a;
        a += b; b = Integer.rotateLeft(b, 24) ^ a;
        a += k1; b += k2 + 4;
        a += b; b = Integer.rotateLeft(b, 13) ^ a;
        a += b; b = Integer.rotateLeft(b, 15) ^ a;
        a += b; b = Integer.rotateLeft(b, 26) ^ a;
        a += b; b = Integer.rotateLeft(b, 6) ^ a;
        a += k2; b += k0 + 5;
        return (long) a << 32 | b & LOW;
    }

    /** JAX's fold_in for data below 2³². */
    static long foldIn(long key, int data) {
        return threefry(key, 0, data);
    }

    /** Stream 0 of a canvas is its initial tokens' words; stream i ≥ 1 belongs to the i-th step run. */
    static long streamKey(long seed, int canvas, int stream) {
        return foldIn(foldIn(seed, canvas), stream);
    }

    /** Fills {@code words} with the first words of a key's stream. */
    static void words(long key, long[] words) {
        for (int n = 0; n < words.length; n++) {
            long pair = threefry(key, 0, n);
            words[n] = (pair >>> 32 ^ pair) & LOW;
        }
    }

    /** A uniform number in [0, 1). */
    static double uniform(long word) {
        return (word >>> 8) * 0x1p-24;
    }

    /** A uniform token id: (word · V) &gt;&gt; 32. */
    static long token(long word, int vocabSize) {
        return word * vocabSize >>> 32;
    }
}
