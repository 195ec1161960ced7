package org.dgemma.tokenizer;


/**
 * SentencePiece's table of normalizations: a double-array trie (Darts-clone's format) from byte prefixes to offsets
 * into a block of strings that end with NUL. Every index is checked, since the table comes from a file.
 */
final class CharsMap {
    private static final int MOST_RESULTS = 32; // sentencepiece looks at no more prefixes than these

    private final int[] units;
    private final byte[] bytes;
    private final int stringsStart;
    private int matched;

    /** `blob` is length of the trie in bytes (uint32), trie, strings. */
    CharsMap(byte[] blob) {
        long trieBytes = blob.length > 4 ? word(blob, 0) & 0xFFFFFFFFL : Long.MAX_VALUE;
        if (trieBytes >= blob.length - 4) {
            throw new TokenizerException("its table of normalizations is damaged");
        }
        units = new int[(int) trieBytes / 4];
        for (int i = 0; i < units.length; i++) {
            units[i] = word(blob, 4 + 4 * i);
        }
        bytes = blob;
        stringsStart = 4 + (int) trieBytes;
    }

    /** A reader with a state of its own over the same table. */
    CharsMap(CharsMap other) {
        units = other.units;
        bytes = other.bytes;
        stringsStart = other.stringsStart;
    }

    byte[] bytes() {
        return bytes;
    }

    /** Where the replacement of the longest prefix begins in {@link #bytes}, or -1; {@link #matched} is its length. */
    int find(byte[] text, int from, int to) {
        matched = 0;
        if (units.length == 0) {
            return -1;
        }
        int best = -1;
        int node = offset(units[0]);
        int results = 0;
        for (int i = from; i < to && results < MOST_RESULTS; i++) {
            int label = text[i] & 0xFF;
            node ^= label;
            if (node < 0 || node >= units.length || (units[node] & 0x800000FF) != label) {
                break;
            }
            boolean leaf = (units[node] & 0x100) != 0;
            node ^= offset(units[node]);
            if (leaf) {
                if (node < 0 || node >= units.length) {
                    break;
                }
                long start = stringsStart + (long) (units[node] & 0x7FFFFFFF);
                best = start < bytes.length ? (int) start : -1;
                matched = i + 1 - from;
                results++;
            }
        }
        return best;
    }

    int matched() {
        return matched;
    }

    /** End of the string that begins at `start`. */
    int end(int start) {
        int at = start;
        while (at < bytes.length && bytes[at] != 0) {
            at++;
        }
        return at;
    }

    private static int offset(int unit) {
        return unit >>> 10 << ((unit & 0x200) >>> 6);
    }

    private static int word(byte[] bytes, int at) {
        return bytes[at] & 0xFF | (bytes[at + 1] & 0xFF) << 8 | (bytes[at + 2] & 0xFF) << 16 | bytes[at + 3] << 24;
    }
}
