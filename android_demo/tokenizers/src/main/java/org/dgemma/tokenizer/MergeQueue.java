package org.dgemma.tokenizer;

import java.util.Arrays;

/** Merges that a BPE encoder may do next, smallest key first: a binary heap without objects. */
final class MergeQueue {
    private long[] keys;
    private int[] values;
    private int size;
    private int poppedLeft;
    private int poppedValue;

    MergeQueue(int capacity) {
        keys = new long[Math.max(capacity, 8)];
        values = new int[keys.length];
    }

    /** `priority` orders first (smaller goes first), then `left`; `value` is what the encoder wants back. */
    void push(int priority, int left, int value) {
        if (size == keys.length) {
            keys = Arrays.copyOf(keys, size * 2);
            values = Arrays.copyOf(values, size * 2);
        }
        long key = (long) priority << 32 | left;
        int at = size++;
        while (at > 0 && keys[at - 1 >> 1] > key) {
            move(at - 1 >> 1, at);
            at = at - 1 >> 1;
        }
        keys[at] = key;
        values[at] = value;
    }

    /** Takes the first merge into {@link #left} and {@link #value}; false when none is left. */
    boolean pop() {
        if (size == 0) {
            return false;
        }
        poppedLeft = (int) keys[0];
        poppedValue = values[0];
        size--;
        long key = keys[size];
        int value = values[size];
        int at = 0;
        for (int child = 1; child < size; child = 2 * at + 1) {
            if (child + 1 < size && keys[child + 1] < keys[child]) {
                child++;
            }
            if (keys[child] >= key) {
                break;
            }
            move(child, at);
            at = child;
        }
        keys[at] = key;
        values[at] = value;
        return true;
    }

    int left() {
        return poppedLeft;
    }

    int value() {
        return poppedValue;
    }

    private void move(int from, int to) {
        keys[to] = keys[from];
        values[to] = values[from];
    }
}
