package org.dgemma.runtime.structure;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.dgemma.format.Json;
import org.dgemma.runtime.UsageException;

/**
 * A language as a deterministic automaton over bytes with as few states as there can be: every state is on the way from the
 * start to an accepting one. S states, numbered from 0; S is dead. C classes of bytes. It knows nothing of tokens.
 */
final class ByteAutomaton {
    static final int MOST_STATES = 20_000;
    /** Characters of a language in a message. */
    static final int SHOWN = 60;
    static final String TOO_LARGE =
            ": needs too many states, or too much time; counts such as {1,1000} need many: use fewer, or smaller ones";
    private static final int LONGEST = 1 << 20; // characters of an expression

    /** S. */
    final int states;
    final int start;
    /** [S + 1]. */
    final boolean[] accepting;
    /** C. */
    final int classes;
    /** [256]. */
    final int[] classOf;
    /** [(S + 1) · C] the state behind each class of bytes. */
    final int[] table;

    ByteAutomaton(int states, int start, boolean[] accepting, int[] classOf, int classes, int[] table) {
        this.states = states;
        this.start = start;
        this.accepting = accepting;
        this.classOf = classOf;
        this.classes = classes;
        this.table = table;
    }

    /**
     * Of the texts that an expression matches whole.
     *
     * @param regex {@code ^} before and {@code $} behind all of it are left out
     * @param name the option that errors name
     * @throws UsageException it cannot be read, matches no text, or is too large
     * @throws Cancelled also Patience.Late
     */
    static ByteAutomaton compiled(String regex, String name, Patience patience) {
        boolean cut = regex.codePointCount(0, regex.length()) > SHOWN;
        String said = name + " " + Json.repr(regex, SHOWN) + (cut ? "…" : "");
        String bare = bare(regex);
        if (bare.length() > LONGEST) {
            throw new UsageException(name + " is an expression of " + bare.length() + " characters; at most " + LONGEST
                    + " are compiled; make it shorter");
        }
        ByteAutomaton found;
        try {
            Syntax mark = Syntax.characters(CodePoints.of(Dfa.MARK, Dfa.MARK));
            Syntax marked = Syntax.sequence(Arrays.asList(RegexReader.read(bare, said), mark));
            found = smallest(new Dfa(new Nfa(marked, patience), patience), patience);
        } catch (Nfa.TooLarge error) {
            throw new UsageException(said + TOO_LARGE, error);
        }
        if (found.states == 0) {
            throw new UsageException(said + ": matches no text; write an expression that matches one");
        }
        if (found.states > MOST_STATES) {
            throw new UsageException(said + TOO_LARGE);
        }
        return found;
    }

    private static String bare(String regex) {
        String bare = regex.startsWith("^") ? regex.substring(1) : regex;
        int slashes = 0;
        while (bare.endsWith("$") && slashes + 1 < bare.length() && bare.charAt(bare.length() - 2 - slashes) == '\\') {
            slashes++;
        }
        return bare.endsWith("$") && slashes % 2 == 0 ? bare.substring(0, bare.length() - 1) : bare;
    }

    /** The state behind one byte. */
    int step(int state, byte value) {
        return table[state * classes + classOf[value & 0xFF]];
    }

    /** The state behind a text, S where no text of the language goes on so. */
    int after(byte[] text, int state) {
        int at = state;
        for (byte each : text) {
            at = step(at, each);
        }
        return at;
    }

    boolean matches(String text) {
        return accepting[after(text.getBytes(StandardCharsets.UTF_8), start)];
    }

    /** Whether any state goes on with a byte. */
    boolean takes(int value) {
        for (int state = 0; state < states; state++) {
            if (step(state, (byte) value) != states) {
                return true;
            }
        }
        return false;
    }

    private static ByteAutomaton smallest(Dfa dfa, Patience patience) {
        boolean[] useful = useful(dfa, patience);
        int[] steps = kept(dfa, useful);
        Partition blocks = blocks(dfa, useful, steps, patience);
        int[] number = new int[dfa.states()]; // of each block, but for those of states without use
        Arrays.fill(number, -1);
        int states = 0;
        for (int state = 0; state < dfa.states(); state++) {
            if (useful[state] && number[blocks.setOf[state]] < 0) {
                number[blocks.setOf[state]] = states++;
            }
        }
        int[] table = new int[(states + 1) * dfa.classes];
        Arrays.fill(table, states);
        for (int step : steps) {
            int state = number[blocks.setOf[dfa.from.values[step]]];
            table[state * dfa.classes + dfa.by.values[step]] = number[blocks.setOf[dfa.to.values[step]]];
        }
        boolean[] accepting = new boolean[states + 1];
        for (int state = 0; state < dfa.states(); state++) {
            if (useful[state]) {
                accepting[number[blocks.setOf[state]]] = dfa.ends[state];
            }
        }
        int start = useful[0] ? number[blocks.setOf[0]] : states;
        return new ByteAutomaton(states, start, accepting, dfa.classOf, dfa.classes, table);
    }

    /** Which states lead to an accepting one; all are reached. */
    private static boolean[] useful(Dfa dfa, Patience patience) {
        int[] all = new int[dfa.from.size];
        Arrays.setAll(all, i -> i);
        int[] begins = new int[dfa.states() + 1];
        int[] into = sorted(all, dfa.to.values, begins);
        boolean[] found = new boolean[dfa.states()];
        IntStack stack = new IntStack(64);
        for (int state = 0; state < found.length; state++) {
            if (dfa.ends[state]) {
                found[state] = true;
                stack.push(state);
            }
        }
        while (stack.size > 0) {
            patience.poll();
            int state = stack.pop();
            for (int i = begins[state]; i < begins[state + 1]; i++) {
                int before = dfa.from.values[into[i]];
                if (!found[before]) {
                    found[before] = true;
                    stack.push(before);
                }
            }
        }
        return found;
    }

    /** Steps between states of use. */
    private static int[] kept(Dfa dfa, boolean[] useful) {
        IntStack steps = new IntStack(dfa.from.size);
        for (int i = 0; i < dfa.from.size; i++) {
            if (useful[dfa.from.values[i]] && useful[dfa.to.values[i]]) {
                steps.push(i);
            }
        }
        return steps.toArray();
    }

    /** Sets of states that nothing tells apart. States without use may be in any. */
    private static Partition blocks(Dfa dfa, boolean[] useful, int[] steps, Patience patience) {
        int[] begins = new int[dfa.states() + 1];
        int[] into = sorted(steps, dfa.to.values, begins);
        int[] place = new int[dfa.from.size];
        for (int i = 0; i < steps.length; i++) {
            place[steps[i]] = i;
        }
        Partition blocks = new Partition(dfa.states());
        for (int state = 0; state < useful.length; state++) {
            if (dfa.ends[state]) {
                blocks.mark(state);
            }
        }
        blocks.split();
        Partition cords = new Partition(steps.length); // steps of one class into one block
        int[] runs = new int[dfa.classes + 1];
        int[] ordered = sorted(steps, dfa.by.values, runs);
        for (int c = 1; c < dfa.classes; c++) {
            for (int i = runs[c]; i < runs[c + 1]; i++) {
                cords.mark(place[ordered[i]]);
            }
            cords.split();
        }
        int block = 1;
        for (int cord = 0; cord < cords.sets; cord++) {
            patience.poll();
            for (int i = cords.first[cord]; i < cords.past[cord]; i++) {
                blocks.mark(dfa.from.values[steps[cords.numbers[i]]]);
            }
            blocks.split();
            for (; block < blocks.sets; block++) {
                for (int i = blocks.first[block]; i < blocks.past[block]; i++) {
                    int state = blocks.numbers[i];
                    for (int j = begins[state]; j < begins[state + 1]; j++) {
                        cords.mark(place[into[j]]);
                    }
                }
                cords.split();
            }
        }
        return blocks;
    }

    /** Numbers by the values that they have, counted: those of value v from {@code begins} v on. */
    private static int[] sorted(int[] numbers, int[] values, int[] begins) {
        for (int number : numbers) {
            begins[values[number] + 1]++;
        }
        for (int v = 1; v < begins.length; v++) {
            begins[v] += begins[v - 1];
        }
        int[] next = begins.clone();
        int[] found = new int[numbers.length];
        for (int number : numbers) {
            found[next[values[number]]++] = number;
        }
        return found;
    }
}
