package org.dgemma.runtime.structure;

import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** A nondeterministic automaton over bytes, made of a tree from its end to its beginning (Thompson 1968). */
final class Nfa {
    private static final int MOST_STATES = 400_000;
    private static final int MOST_STEPS = 2_000_000;
    /** Where a match ends. */
    static final int END = 0;
    /** In place of a first byte: the step takes none. */
    static final int NOTHING = -1;

    /** Steps: first byte, last byte, state behind it; those of state s from {@link #begins} s on. */
    final IntStack steps = new IntStack(1024);
    final IntStack begins = new IntStack(256);
    final int start;
    private final Patience patience;
    private final Map<int[], Utf8Tree> known = new HashMap<>(); // arrays by identity: a counted part has the same ones

    /** It is too large. */
    static final class TooLarge extends RuntimeException {
        private static final long serialVersionUID = 1L;
    }

    /** Throws TooLarge, Cancelled, Late. */
    Nfa(Syntax regex, Patience patience) {
        this.patience = patience;
        state();
        start = made(regex, END);
        begins.push(steps.size);
    }

    int states() {
        return begins.size - 1;
    }

    /** A new state, whose steps come next. */
    private int state() {
        patience.poll();
        if (begins.size >= MOST_STATES || steps.size / 3 >= MOST_STEPS) {
            throw new TooLarge();
        }
        begins.push(steps.size);
        return begins.size - 1;
    }

    private void step(int first, int last, int behind) {
        steps.push(first);
        steps.push(last);
        steps.push(behind);
    }

    private int either(int one, int other) {
        int state = state();
        step(NOTHING, NOTHING, one);
        step(NOTHING, NOTHING, other);
        return state;
    }

    /** The state from which a tree leads to another one. */
    private int made(Syntax tree, int behind) {
        switch (tree.kind) {
            case CHARACTERS:
                return characters(tree.set, behind);
            case SEQUENCE:
                int next = behind;
                for (int i = tree.parts.size() - 1; i >= 0; i--) {
                    next = made(tree.parts.get(i), next);
                }
                return next;
            case CHOICE:
                int[] begun = new int[tree.parts.size()];
                for (int i = 0; i < begun.length; i++) {
                    begun[i] = made(tree.parts.get(i), behind);
                }
                int state = state();
                for (int each : begun) {
                    step(NOTHING, NOTHING, each);
                }
                return state;
            default:
                return repeated(tree, behind);
        }
    }

    private int repeated(Syntax tree, int behind) {
        Syntax part = tree.parts.get(0);
        int next = behind;
        int least = tree.least;
        if (tree.most == Syntax.UNBOUNDED) {
            int loop = either(behind, behind);
            int again = made(part, loop);
            steps.values[begins.values[loop] + 2] = again;
            next = least == 0 ? loop : again;
            least = Math.max(0, least - 1);
        }
        for (int i = tree.least; i < tree.most; i++) {
            next = either(made(part, next), behind);
        }
        for (int i = 0; i < least; i++) {
            next = made(part, next);
        }
        return next;
    }

    private int characters(int[] set, int behind) {
        List<int[]> nodes = known.computeIfAbsent(set, Utf8Tree::new).nodes;
        int[] states = new int[nodes.size()];
        states[0] = behind;
        for (int i = 1; i < states.length; i++) {
            states[i] = state();
            int[] own = nodes.get(i);
            for (int j = 0; j < own.length; j += 3) {
                step(own[j], own[j + 1], states[own[j + 2]]);
            }
        }
        return states[states.length - 1];
    }
}
