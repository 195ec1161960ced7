package org.dgemma.tokenizer;

/**
 * Finds the strings that a text begins with. It behaves as a trie and costs four bytes a string: a node is the range of
 * the sorted strings that share a prefix, and a step narrows it by binary search.
 */
final class PrefixSearch {
    static final long NOTHING = 0;

    private final PackedStrings strings;
    private final int[] sorted;
    private final int[] firsts = new int[257];

    /** Of equal strings any one may be found. */
    PrefixSearch(PackedStrings strings, int[] numbers) {
        this.strings = strings;
        this.sorted = sort(numbers);
        int at = 0;
        while (at < sorted.length && strings.length(sorted[at]) == 0) {
            at++; // an empty string begins every text and is no token
        }
        for (int first = 0; first < 256; first++) {
            firsts[first] = at;
            while (at < sorted.length && byteAt(at, 0) == first) {
                at++;
            }
        }
        firsts[256] = at;
    }

    /** Bytes of the longest string. */
    int longestString() {
        return strings.longest();
    }

    /** The node of one byte, {@link #NOTHING} where no string begins so. */
    long first(byte b) {
        return range(firsts[b & 0xFF], firsts[(b & 0xFF) + 1]);
    }

    /** The node below `node`, which lies `depth` bytes deep. */
    long next(long node, int depth, byte b) {
        int low = (int) (node >>> 32);
        int high = (int) node;
        if (strings.length(sorted[low]) == depth) {
            low++;
        }
        int from = lowerBound(low, high, depth, b & 0xFF);
        return range(from, lowerBound(from, high, depth, (b & 0xFF) + 1));
    }

    /** Number of the string that ends at the node, or -1. */
    int found(long node, int depth) {
        int index = sorted[(int) (node >>> 32)];
        return strings.length(index) == depth ? index : -1;
    }

    /** Number of the longest string at the beginning of the text, or -1. */
    int longest(byte[] text, int from, int to) {
        int best = -1;
        long node = from < to ? first(text[from]) : NOTHING;
        for (int depth = 1; node != NOTHING; depth++) {
            int found = found(node, depth);
            best = found >= 0 ? found : best;
            node = from + depth < to ? next(node, depth, text[from + depth]) : NOTHING;
        }
        return best;
    }

    private static long range(int from, int to) {
        return from < to ? (long) from << 32 | to : NOTHING;
    }

    private int lowerBound(int low, int high, int depth, int value) {
        while (low < high) {
            int middle = low + high >>> 1;
            if (byteAt(middle, depth) < value) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return low;
    }

    private int byteAt(int rank, int depth) {
        int index = sorted[rank];
        return strings.bytes()[strings.start(index) + depth] & 0xFF;
    }

    /** Merge sort from the bottom up: the library sorts no ints by a comparison. */
    private int[] sort(int[] numbers) {
        int[] from = numbers.clone();
        int[] to = new int[from.length];
        for (int width = 1; width < from.length; width *= 2) {
            for (int start = 0; start < from.length; start += 2 * width) {
                merge(from, to, start, Math.min(start + width, from.length), Math.min(start + 2 * width, from.length));
            }
            int[] swap = from;
            from = to;
            to = swap;
        }
        return from;
    }

    private void merge(int[] from, int[] to, int start, int middle, int end) {
        int left = start;
        int right = middle;
        for (int i = start; i < end; i++) {
            boolean takeLeft = left < middle && (right >= end || strings.compare(from[left], from[right]) <= 0);
            to[i] = takeLeft ? from[left++] : from[right++];
        }
    }
}
