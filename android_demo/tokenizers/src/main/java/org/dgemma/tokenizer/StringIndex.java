package org.dgemma.tokenizer;

import java.util.Arrays;

/** Numbers of some of the strings of a {@link PackedStrings}, by content: a hash table of ints with linear probing. */
final class StringIndex {
    private final PackedStrings strings;
    private int[] slots;
    private int size;

    StringIndex(PackedStrings strings, int expected) {
        this.strings = strings;
        this.slots = empty(Integer.highestOneBit(Math.max(expected, 8) * 2 - 1) << 1);
    }

    /** Adds the string unless an equal one is there, whose number is then returned; else -1. */
    int putIfAbsent(int index) {
        int slot = slot(strings.bytes(), strings.start(index), strings.end(index));
        if (slots[slot] >= 0) {
            return slots[slot];
        }
        slots[slot] = index;
        if (++size * 2 > slots.length) {
            grow();
        }
        return -1;
    }

    /** Number of the string that equals the bytes, or -1. */
    int find(byte[] text, int from, int to) {
        return to - from > strings.longest() ? -1 : slots[slot(text, from, to)];
    }

    int size() {
        return size;
    }

    private int slot(byte[] text, int from, int to) {
        int hash = 0x811C9DC5;
        for (int i = from; i < to; i++) {
            hash = (hash ^ text[i]) * 0x01000193; // FNV-1a
        }
        int mask = slots.length - 1;
        int slot = (hash ^ hash >>> 15) & mask;
        while (slots[slot] >= 0 && !strings.equals(slots[slot], text, from, to)) {
            slot = slot + 1 & mask;
        }
        return slot;
    }

    private void grow() {
        int[] old = slots;
        slots = empty(old.length * 2);
        for (int index : old) {
            if (index >= 0) {
                slots[slot(strings.bytes(), strings.start(index), strings.end(index))] = index;
            }
        }
    }

    private static int[] empty(int capacity) {
        int[] slots = new int[capacity];
        Arrays.fill(slots, -1);
        return slots;
    }
}
