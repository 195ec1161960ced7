package org.dgemma.runtime.structure;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A set of characters as the bytes of their UTF-8: the smallest tree of steps in which equal ends are one. Node 0 is behind a
 * character; the last one is before it.
 */
final class Utf8Tree {
    /** Steps of each node: a first and a last byte, and the node behind them; each three ints. */
    final List<int[]> nodes = new ArrayList<>();
    private final Map<List<Integer>, Integer> known = new HashMap<>();

    Utf8Tree(int[] set) {
        nodes.add(new int[0]);
        List<int[]> sequences = new ArrayList<>();
        int[] lengths = {0x7F, 0x7FF, 0xFFFF, CodePoints.LAST};
        for (int i = 0; i < set.length; i += 2) {
            int from = set[i];
            for (int last : lengths) {
                if (from <= Math.min(last, set[i + 1])) {
                    split(from, Math.min(last, set[i + 1]), sequences);
                    from = last + 1;
                }
            }
        }
        int[] root = steps(sequences, 0, sequences.size(), 0);
        nodes.add(root); // a new one even where it is known, so that it is the last
    }

    /** Ranges of characters of equal length as sequences of ranges of bytes. */
    private static void split(int from, int to, List<int[]> sequences) {
        for (int bits = 6; bits < 24; bits += 6) {
            int mask = (1 << bits) - 1;
            if ((from & ~mask) != (to & ~mask)) {
                if ((from & mask) != 0) {
                    split(from, from | mask, sequences);
                    split((from | mask) + 1, to, sequences);
                    return;
                }
                if ((to & mask) != mask) {
                    split(from, (to & ~mask) - 1, sequences);
                    split(to & ~mask, to, sequences);
                    return;
                }
            }
        }
        byte[] first = encoded(from);
        byte[] last = encoded(to);
        int[] sequence = new int[2 * first.length];
        for (int i = 0; i < first.length; i++) {
            sequence[2 * i] = first[i] & 0xFF;
            sequence[2 * i + 1] = last[i] & 0xFF;
        }
        sequences.add(sequence);
    }

    private static byte[] encoded(int character) {
        if (character < 0x80) {
            return new byte[] {(byte) character};
        }
        int length = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
        byte[] bytes = new byte[length];
        for (int i = length - 1; i > 0; i--) {
            bytes[i] = (byte) (0x80 | character & 0x3F);
            character >>= 6;
        }
        bytes[0] = (byte) (0xF00 >> length | character);
        return bytes;
    }

    /** Of sequences from..to, which are alike before a depth; they are in order, and the ranges of two are equal or apart. */
    private int[] steps(List<int[]> sequences, int from, int to, int depth) {
        IntStack found = new IntStack(3);
        for (int i = from; i < to; ) {
            int[] one = sequences.get(i);
            int end = i + 1;
            while (end < to && sequences.get(end)[2 * depth] == one[2 * depth]) {
                end++;
            }
            int behind = one.length == 2 * depth + 2 ? 0 : node(steps(sequences, i, end, depth + 1));
            int before = found.size - 3;
            if (before >= 0 && found.values[before + 2] == behind && found.values[before + 1] + 1 == one[2 * depth]) {
                found.values[before + 1] = one[2 * depth + 1];
            } else {
                found.push(one[2 * depth]);
                found.push(one[2 * depth + 1]);
                found.push(behind);
            }
            i = end;
        }
        return found.toArray();
    }

    private int node(int[] steps) {
        List<Integer> key = new ArrayList<>();
        Arrays.stream(steps).forEach(key::add);
        Integer found = known.get(key);
        if (found == null) {
            found = nodes.size();
            known.put(key, found);
            nodes.add(steps);
        }
        return found;
    }
}
