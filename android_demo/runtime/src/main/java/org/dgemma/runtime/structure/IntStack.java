package org.dgemma.runtime.structure;

import java.util.Arrays;

/** A growing array of ints. */
final class IntStack {
    int[] values;
    int size;

    IntStack(int capacity) {
        values = new int[Math.max(capacity, 16)];
    }

    void push(int value) {
        if (size == values.length) {
            values = Arrays.copyOf(values, size + (size >> 1));
        }
        values[size++] = value;
    }

    int pop() {
        return values[--size];
    }

    int[] toArray() {
        return Arrays.copyOf(values, size);
    }
}
