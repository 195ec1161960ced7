package org.dgemma.runtime;

import java.util.Arrays;

/** Ids that grow at the end and are cut back there. */
final class IntList {
    private int[] values = new int[64];
    private int size;

    int size() {
        return size;
    }

    int get(int index) {
        return values[index];
    }

    void add(int[] from, int count) {
        if (values.length - size < count) {
            values = Arrays.copyOf(values, Math.max(size + count, 2 * values.length));
        }
        System.arraycopy(from, 0, values, size, count);
        size += count;
    }

    void add(int value) {
        add(new int[] {value}, 1);
    }

    void truncate(int length) {
        size = Math.min(size, length);
    }

    int[] toArray() {
        return Arrays.copyOf(values, size);
    }
}
