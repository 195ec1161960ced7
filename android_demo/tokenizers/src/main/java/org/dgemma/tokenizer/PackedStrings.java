package org.dgemma.tokenizer;

import java.util.Arrays;

/**
 * Byte strings behind one another in one array, numbered from 0: a vocabulary of a quarter million pieces costs its
 * bytes and four bytes a piece, not objects.
 */
final class PackedStrings {
    private final Bytes bytes;
    private int[] starts;
    private int size;
    private int longest;

    PackedStrings(int strings, int bytes) {
        this.bytes = new Bytes(bytes);
        this.starts = new int[Math.max(strings, 8) + 1];
    }

    /** Returns the string's number. */
    int add(byte[] source, int from, int to) {
        if (size + 1 == starts.length) {
            starts = Arrays.copyOf(starts, starts.length * 2);
        }
        bytes.add(source, from, to);
        starts[++size] = bytes.size;
        longest = Math.max(longest, to - from);
        return size - 1;
    }

    /** Gives back memory that later strings would have taken. */
    void trim() {
        bytes.values = Arrays.copyOf(bytes.values, bytes.size);
        starts = Arrays.copyOf(starts, size + 1);
    }

    int size() {
        return size;
    }

    byte[] bytes() {
        return bytes.values;
    }

    int start(int index) {
        return starts[index];
    }

    int end(int index) {
        return starts[index + 1];
    }

    int length(int index) {
        return starts[index + 1] - starts[index];
    }

    /** Bytes of the longest string. */
    int longest() {
        return longest;
    }

    boolean equals(int index, byte[] text, int from, int to) {
        return length(index) == to - from && equal(bytes.values, starts[index], text, from, to - from);
    }

    String text(int index) {
        return Utf8.strict(bytes.values, starts[index], starts[index + 1]);
    }

    int compare(int left, int right) {
        int a = starts[left];
        int b = starts[right];
        int common = Math.min(length(left), length(right));
        for (int i = 0; i < common; i++) {
            int difference = (bytes.values[a + i] & 0xFF) - (bytes.values[b + i] & 0xFF);
            if (difference != 0) {
                return difference;
            }
        }
        return length(left) - length(right);
    }

    static boolean equal(byte[] a, int from, byte[] b, int start, int length) {
        for (int i = 0; i < length; i++) {
            if (a[from + i] != b[start + i]) {
                return false;
            }
        }
        return true;
    }
}
