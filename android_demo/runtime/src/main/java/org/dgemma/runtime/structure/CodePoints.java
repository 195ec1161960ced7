package org.dgemma.runtime.structure;

import java.util.ArrayList;
import java.util.List;

/** Sets of characters as sorted ranges that do not touch: pairs of a first and a last code point; no surrogates. */
final class CodePoints {
    static final int LAST = 0x10FFFF;

    private CodePoints() {}

    /** One range, or several, in any order. */
    static int[] of(int... pairs) {
        List<int[]> ranges = new ArrayList<>();
        for (int i = 0; i < pairs.length; i += 2) {
            cut(ranges, pairs[i], Math.min(pairs[i + 1], 0xD7FF));
            cut(ranges, Math.max(pairs[i], 0xE000), pairs[i + 1]);
        }
        ranges.sort((a, b) -> Integer.compare(a[0], b[0]));
        IntStack found = new IntStack(pairs.length);
        for (int[] range : ranges) {
            boolean joins = found.size > 0 && range[0] <= found.values[found.size - 1] + 1;
            if (joins) {
                found.values[found.size - 1] = Math.max(found.values[found.size - 1], range[1]);
            } else {
                found.push(range[0]);
                found.push(range[1]);
            }
        }
        return found.toArray();
    }

    private static void cut(List<int[]> ranges, int first, int last) {
        if (first <= last) {
            ranges.add(new int[] {first, last});
        }
    }

    /** All others. */
    static int[] without(int[] set) {
        IntStack found = new IntStack(set.length + 2);
        int from = 0;
        for (int i = 0; i < set.length; i += 2) {
            if (from < set[i]) {
                found.push(from);
                found.push(set[i] - 1);
            }
            from = set[i + 1] + 1;
        }
        if (from <= LAST) {
            found.push(from);
            found.push(LAST);
        }
        return of(found.toArray()); // which leaves surrogates out
    }

    /** A set as text: in hexadecimal, how far each end is behind the one before. */
    static int[] read(String deltas) {
        String[] words = deltas.split(" ");
        int[] found = new int[words.length];
        int at = 0;
        for (int i = 0; i < words.length; i++) {
            at += Integer.parseInt(words[i], 16);
            found[i] = at;
        }
        return found;
    }
}
