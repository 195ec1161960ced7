package org.dgemma.runtime.structure;

import java.nio.ByteBuffer;
import java.util.Arrays;

/** Reads the automaton of a compiled structure, and checks that all of it is used. S states, R ranges of bytes. */
final class TransitionReader {
    private final int states;
    private final int above;
    /** [S + 1] where the ranges of each state begin. */
    private final int[] begins;
    private final boolean[] accepting;
    /** [R] the first and the last byte, and where they lead. */
    private int[] first = {};
    private int[] last = {};
    private int[] target = {};

    /** @param above what all bytes are below */
    TransitionReader(int states, int above) {
        this.states = states;
        this.above = above;
        begins = new int[states + 1];
        accepting = new boolean[states + 1];
    }

    /** Throws UsageException where it is damaged. */
    ByteAutomaton read(ByteBuffer body) {
        if (body.remaining() < 2 * states) {
            throw CompiledStructure.damaged("its length is wrong");
        }
        for (int state = 0; state < states; state++) {
            int count = body.getShort() & 0xFFFF;
            accepting[state] = count % 2 == 1;
            begins[state + 1] = begins[state] + count / 2;
        }
        int ranges = begins[states];
        if (body.remaining() != 4L * ranges) {
            throw CompiledStructure.damaged("its length is wrong");
        }
        first = new int[ranges];
        last = new int[ranges];
        target = new int[ranges];
        boolean outside = false;
        for (int i = 0; i < ranges; i++) {
            first[i] = body.get() & 0xFF;
            last[i] = body.get() & 0xFF;
            target[i] = body.getShort() & 0xFFFF;
            outside |= target[i] >= states || last[i] >= above;
        }
        if (outside) {
            throw CompiledStructure.damaged("a transition is outside its " + states + " states or " + above + " bytes");
        }
        for (int state = 0; state < states; state++) {
            int before = -1;
            for (int i = begins[state]; i < begins[state + 1]; before = last[i++]) {
                if (first[i] > last[i] || first[i] <= before) {
                    throw CompiledStructure.damaged("its transitions are out of order");
                }
            }
        }
        checkUse();
        return automaton();
    }

    /** Whether every state is on the way from the first to an accepting one. */
    private void checkUse() {
        boolean[] reached = new boolean[states];
        IntStack waiting = new IntStack(64);
        reached[0] = true;
        waiting.push(0);
        int[] into = new int[states + 1];
        for (int to : target) {
            into[to + 1]++;
        }
        while (waiting.size > 0) {
            int state = waiting.pop();
            for (int i = begins[state]; i < begins[state + 1]; i++) {
                if (!reached[target[i]]) {
                    reached[target[i]] = true;
                    waiting.push(target[i]);
                }
            }
        }
        if (!all(reached)) {
            throw CompiledStructure.damaged("a state cannot be reached");
        }
        for (int state = 0; state < states; state++) {
            into[state + 1] += into[state];
        }
        int[] next = into.clone();
        int[] from = new int[target.length];
        for (int state = 0; state < states; state++) {
            for (int i = begins[state]; i < begins[state + 1]; i++) {
                from[next[target[i]]++] = state;
            }
        }
        boolean[] useful = Arrays.copyOf(accepting, states);
        for (int state = 0; state < states; state++) {
            if (useful[state]) {
                waiting.push(state);
            }
        }
        while (waiting.size > 0) {
            int state = waiting.pop();
            for (int i = into[state]; i < into[state + 1]; i++) {
                if (!useful[from[i]]) {
                    useful[from[i]] = true;
                    waiting.push(from[i]);
                }
            }
        }
        if (!all(useful)) {
            throw CompiledStructure.damaged("no accepting state can be reached from a state");
        }
    }

    private static boolean all(boolean[] values) {
        boolean every = true;
        for (boolean value : values) {
            every &= value;
        }
        return every;
    }

    /** Bytes between which no range begins or ends are one class. */
    private ByteAutomaton automaton() {
        boolean[] bounds = new boolean[257];
        for (int i = 0; i < first.length; i++) {
            bounds[first[i]] = true;
            bounds[last[i] + 1] = true;
        }
        int[] classOf = new int[256];
        for (int value = 1; value < 256; value++) {
            classOf[value] = classOf[value - 1] + (bounds[value] ? 1 : 0);
        }
        int classes = classOf[255] + 1;
        int[] table = new int[(states + 1) * classes];
        Arrays.fill(table, states);
        for (int state = 0; state < states; state++) {
            for (int i = begins[state]; i < begins[state + 1]; i++) {
                Arrays.fill(table, state * classes + classOf[first[i]], state * classes + classOf[last[i]] + 1, target[i]);
            }
        }
        return new ByteAutomaton(states, 0, accepting, classOf, classes, table);
    }
}
