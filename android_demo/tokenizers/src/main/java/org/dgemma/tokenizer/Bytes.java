package org.dgemma.tokenizer;

import java.util.Arrays;

/** A growing array of bytes. */
final class Bytes {
    byte[] values;
    int size;

    Bytes(int capacity) {
        values = new byte[Math.max(capacity, 16)];
    }

    void add(int value) {
        reserve(1);
        values[size++] = (byte) value;
    }

    void add(byte[] source, int from, int to) {
        reserve(to - from);
        System.arraycopy(source, from, values, size, to - from);
        size += to - from;
    }

    void add(byte[] source) {
        add(source, 0, source.length);
    }

    void addCodePoint(int c) {
        reserve(4);
        size = Utf8.put(values, size, c);
    }

    boolean endsWith(byte[] suffix) {
        return size >= suffix.length && PackedStrings.equal(values, size - suffix.length, suffix, 0, suffix.length);
    }

    private void reserve(int more) {
        if (values.length - size < more) {
            values = Arrays.copyOf(values, Math.max(values.length + (values.length >> 1), size + more));
        }
    }
}
