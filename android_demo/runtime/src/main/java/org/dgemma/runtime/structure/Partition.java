package org.dgemma.runtime.structure;

/** Numbers from 0 in sets that are split again and again: those that are marked leave the others (Valmari 2012). */
final class Partition {
    int sets;
    /** The numbers, set by set; those of set s from {@link #first} s to {@link #past} s. */
    final int[] numbers;
    final int[] setOf;
    final int[] first;
    final int[] past;
    private final int[] place;
    private final int[] marked;
    private final IntStack touched = new IntStack(16);

    /** All in one set. */
    Partition(int size) {
        sets = size == 0 ? 0 : 1;
        numbers = new int[size];
        place = new int[size];
        setOf = new int[size];
        first = new int[size + 1];
        past = new int[size + 1];
        marked = new int[size + 1];
        for (int i = 0; i < size; i++) {
            numbers[i] = i;
            place[i] = i;
        }
        past[0] = size;
    }

    void mark(int number) {
        int set = setOf[number];
        int from = place[number];
        int to = first[set] + marked[set];
        if (from < to) {
            return;
        }
        numbers[from] = numbers[to];
        place[numbers[from]] = from;
        numbers[to] = number;
        place[number] = to;
        if (marked[set]++ == 0) {
            touched.push(set);
        }
    }

    /** The smaller part of every set that has marked and other numbers becomes a new set. */
    void split() {
        while (touched.size > 0) {
            int set = touched.pop();
            int middle = first[set] + marked[set];
            marked[set] = 0;
            if (middle == past[set]) {
                continue;
            }
            if (middle - first[set] <= past[set] - middle) {
                first[sets] = first[set];
                past[sets] = middle;
                first[set] = middle;
            } else {
                past[sets] = past[set];
                first[sets] = middle;
                past[set] = middle;
            }
            for (int i = first[sets]; i < past[sets]; i++) {
                setOf[numbers[i]] = sets;
            }
            sets++;
        }
    }
}
