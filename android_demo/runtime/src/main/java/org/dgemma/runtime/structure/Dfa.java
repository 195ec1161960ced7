package org.dgemma.runtime.structure;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A deterministic automaton over classes of bytes, by sets of states of an {@link Nfa}; state 0 begins.
 *
 * <p>The expression that it is made of ends with {@link #MARK}, a character that is none: a text is matched where the mark would
 * lead to the end. As in Python's, whose library needs it, nothing goes on behind a mark in a text.
 */
final class Dfa {
    static final int MARK = CodePoints.LAST;
    private static final int[] MARK_BYTES = {0xF4, 0x8F, 0xBF, 0xBF};

    static final int MOST_STATES = 60_000; // before states that are alike become one
    private static final int MOST_MEMBERS = 3_000_000; // of all sets
    private static final int MOST_STEPS = 2_000_000;

    /** [256] classes; bytes that no step tells apart have one. */
    final int[] classOf = new int[256];
    final int classes;
    /** Steps: state, class, state behind it. */
    final IntStack from = new IntStack(256);
    final IntStack by = new IntStack(256);
    final IntStack to = new IntStack(256);
    /** Of each state, whether a text may end there. */
    final boolean[] ends;
    /** Where the steps of each state begin. */
    private final IntStack begins = new IntStack(256);

    private final Nfa nfa;
    private final Patience patience;
    private final Map<Members, Integer> numbers = new HashMap<>();
    private final List<int[]> sets = new ArrayList<>();
    private final int[] seen;
    private int look;
    private final IntStack stack = new IntStack(64);
    private final IntStack members = new IntStack(64);
    private int total;

    /** A set of states, by its contents. */
    private static final class Members {
        final int[] states;
        private final int hash;

        Members(int[] states) {
            this.states = states;
            hash = Arrays.hashCode(states);
        }

        @Override
        public int hashCode() {
            return hash;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Members && Arrays.equals(states, ((Members) other).states);
        }
    }

    /** Throws Nfa.TooLarge, Cancelled, Late. */
    Dfa(Nfa nfa, Patience patience) {
        this.nfa = nfa;
        this.patience = patience;
        seen = new int[nfa.states()];
        classes = split();
        number(new int[] {nfa.start}, 1);
        IntStack[] behind = new IntStack[classes];
        Arrays.setAll(behind, c -> new IntStack(16));
        for (int state = 0; state < sets.size(); state++) {
            patience.check();
            begins.push(from.size);
            if (sets.get(state).length > 0 && sets.get(state)[0] != Nfa.END) {
                follow(state, behind);
            }
        }
        begins.push(from.size);
        ends = new boolean[sets.size()];
        for (int state = 0; state < ends.length; state++) {
            ends[state] = isEnd(state);
        }
    }

    /** Whether the mark leads from a state to the end. */
    private boolean isEnd(int state) {
        int at = state;
        for (int value : MARK_BYTES) {
            int step = begins.values[at];
            while (step < begins.values[at + 1] && by.values[step] != classOf[value]) {
                step++;
            }
            if (step == begins.values[at + 1]) {
                return false;
            }
            at = to.values[step];
        }
        return sets.get(at)[0] == Nfa.END;
    }

    int states() {
        return sets.size();
    }

    /** The classes; how many there are. */
    private int split() {
        boolean[] begins = new boolean[257];
        for (int i = 0; i < nfa.steps.size; i += 3) {
            if (nfa.steps.values[i] != Nfa.NOTHING) {
                begins[nfa.steps.values[i]] = true;
                begins[nfa.steps.values[i + 1] + 1] = true;
            }
        }
        for (int value = 1; value < 256; value++) {
            classOf[value] = classOf[value - 1] + (begins[value] ? 1 : 0);
        }
        return classOf[255] + 1;
    }

    /** Finds where a state leads. @param behind room for states, of each class */
    private void follow(int state, IntStack[] behind) {
        for (IntStack each : behind) {
            each.size = 0;
        }
        int[] steps = nfa.steps.values;
        for (int member : sets.get(state)) {
            for (int i = nfa.begins.values[member]; i < nfa.begins.values[member + 1]; i += 3) {
                for (int c = classOf[steps[i]]; c <= classOf[steps[i + 1]]; c++) {
                    behind[c].push(steps[i + 2]);
                }
            }
        }
        int before = -1;
        int target = -1;
        for (int c = 0; c < classes; c++) {
            if (behind[c].size == 0) {
                continue;
            }
            if (before < 0 || !same(behind[before], behind[c])) {
                patience.poll();
                target = number(behind[c].values, behind[c].size);
            }
            before = c;
            from.push(state);
            by.push(c);
            to.push(target);
        }
        if (sets.size() > MOST_STATES || total > MOST_MEMBERS || from.size > MOST_STEPS) {
            throw new Nfa.TooLarge();
        }
    }

    private static boolean same(IntStack one, IntStack other) {
        boolean found = one.size == other.size;
        for (int i = 0; found && i < one.size; i++) {
            found = one.values[i] == other.values[i];
        }
        return found;
    }

    /** The number of the set of what some states reach without a byte: those that read one, and the end. */
    private int number(int[] states, int count) {
        look++;
        members.size = 0;
        stack.size = 0;
        for (int i = 0; i < count; i++) {
            visit(states[i]);
        }
        while (stack.size > 0) {
            int state = stack.pop();
            int begin = nfa.begins.values[state];
            int end = nfa.begins.values[state + 1];
            if (state == Nfa.END || begin < end && nfa.steps.values[begin] != Nfa.NOTHING) {
                members.push(state);
                continue;
            }
            for (int i = begin; i < end; i += 3) {
                visit(nfa.steps.values[i + 2]);
            }
        }
        int[] sorted = members.toArray();
        Arrays.sort(sorted);
        Members key = new Members(sorted);
        Integer found = numbers.get(key);
        if (found == null) {
            found = sets.size();
            numbers.put(key, found);
            sets.add(sorted);
            total += sorted.length;
        }
        return found;
    }

    private void visit(int state) {
        if (seen[state] != look) {
            seen[state] = look;
            stack.push(state);
        }
    }
}
