package org.dgemma.tokenizer;

import java.util.Arrays;

/** Merges of a BPE model: pairs of ids to the rank and the id that they become. Half a million take 16 MB. */
final class PairTable {
    private final long[] keys;
    private final int[] ranks;
    private final int[] merged;

    PairTable(int pairs) {
        int capacity = Integer.highestOneBit(Math.max(pairs, 8)) << 1;
        if (capacity < pairs + pairs / 4) {
            capacity <<= 1;
        }
        keys = new long[capacity];
        Arrays.fill(keys, -1);
        ranks = new int[capacity];
        merged = new int[capacity];
    }

    /** A later pair takes the place of an equal one. */
    void put(int left, int right, int rank, int becomes) {
        int slot = slot(key(left, right));
        keys[slot] = key(left, right);
        ranks[slot] = rank;
        merged[slot] = becomes;
    }

    /** Where the pair is, or -1. */
    int find(int left, int right) {
        int slot = slot(key(left, right));
        return keys[slot] < 0 ? -1 : slot;
    }

    int rank(int slot) {
        return ranks[slot];
    }

    int merged(int slot) {
        return merged[slot];
    }

    private int slot(long key) {
        long hash = key * 0x9E3779B97F4A7C15L;
        int mask = keys.length - 1;
        int slot = (int) (hash >>> 33) & mask;
        while (keys[slot] >= 0 && keys[slot] != key) {
            slot = slot + 1 & mask;
        }
        return slot;
    }

    private static long key(int left, int right) {
        return (long) left << 32 | right;
    }
}
