package org.dgemma.runtime.structure;

import java.util.Arrays;
import org.dgemma.runtime.UsageException;

/**
 * An automaton over bytes lifted to the ids of a tokenizer. Of the ids that lead from one state to another, one stands for all,
 * so the size does not depend on the vocabulary; where individual ids lead is computed when needed. S states, E edges; state S is
 * dead, and S + 1 is where an answer begins, which no id leads back to. It knows nothing of scores or canvases.
 */
final class TokenAutomaton {
    static final int MOST_EDGES = 1_000_000;
    static final long MOST_WORK = 1_000_000_000L; // nodes of the vocabulary's tree that may be visited
    static final int NEVER = Integer.MAX_VALUE;

    final ByteAutomaton automaton;
    final Vocabulary vocabulary;
    /** S. */
    final int dead;
    /** S + 1. */
    final int begin;
    /** [S + 3] where each state's edges begin. */
    final int[] row;
    /** [E] where they lead. */
    final int[] target;
    /** [E] the ids that stand for them. */
    final int[] id;
    /** [S + 2]. */
    final boolean[] accepting;
    /** [S + 2] ids to the nearest accepting state; NEVER where there is none. */
    final int[] distance;
    /** Of each class of bytes, the states that it leads on from. */
    private final int[][] sources;

    private TokenAutomaton(ByteAutomaton automaton, Vocabulary vocabulary, int[] row, int[] target, int[] id) {
        this.automaton = automaton;
        this.vocabulary = vocabulary;
        this.row = row;
        this.target = target;
        this.id = id;
        dead = automaton.states;
        begin = dead + 1;
        accepting = Arrays.copyOf(automaton.accepting, dead + 2);
        accepting[begin] = automaton.accepting[automaton.start];
        distance = distances();
        sources = new int[automaton.classes][];
        for (int c = 0; c < sources.length; c++) {
            IntStack from = new IntStack(16);
            for (int state = 0; state < dead; state++) {
                if (automaton.table[state * automaton.classes + c] != dead) {
                    from.push(state);
                }
            }
            sources[c] = from.toArray();
        }
    }

    /**
     * Lifted to the ids of a vocabulary, whose first and later texts the trees have.
     *
     * @throws UsageException it is too large; {@code name} is the option that it names
     * @throws Cancelled also Patience.Late
     */
    static TokenAutomaton lifted(
            ByteAutomaton automaton, Vocabulary vocabulary, TokenTree first, TokenTree later, String name, Patience patience) {
        int states = automaton.states;
        int[] row = new int[states + 3];
        IntStack target = new IntStack(1024);
        IntStack id = new IntStack(1024);
        int[] best = TokenTree.best(states);
        IntStack found = new IntStack(64);
        long work = 0;
        for (int state = 0; state < states + 2; state++) {
            patience.check();
            if (state != states) {
                work += state < states ? later.walk(automaton, state, best, found)
                        : first.walk(automaton, automaton.start, best, found);
            }
            for (int i = 0; i < found.size; i++) {
                target.push(found.values[i]);
                id.push(vocabulary.ranked[best[found.values[i]]]);
            }
            TokenTree.forget(best, found);
            row[state + 1] = target.size;
            if (work > MOST_WORK || target.size > MOST_EDGES) {
                throw new UsageException(name + " is too large for this vocabulary: " + states + " states with more than "
                        + MOST_EDGES + " transitions, or too much work; use fewer or smaller counts");
            }
        }
        return new TokenAutomaton(automaton, vocabulary, row, target.toArray(), id.toArray());
    }

    private int[] distances() {
        int[] begins = new int[dead + 3]; // edges by their targets
        for (int to : target) {
            begins[to + 1]++;
        }
        for (int state = 0; state < dead + 2; state++) {
            begins[state + 1] += begins[state];
        }
        int[] next = begins.clone();
        int[] from = new int[target.length];
        for (int state = 0; state < dead + 2; state++) {
            for (int edge = row[state]; edge < row[state + 1]; edge++) {
                from[next[target[edge]]++] = state;
            }
        }
        int[] found = new int[dead + 2];
        int[] queue = new int[dead + 2];
        int size = 0;
        for (int state = 0; state < dead + 2; state++) {
            found[state] = accepting[state] ? 0 : NEVER;
            if (accepting[state]) {
                queue[size++] = state;
            }
        }
        for (int i = 0; i < size; i++) {
            for (int j = begins[queue[i]]; j < begins[queue[i] + 1]; j++) {
                if (found[from[j]] == NEVER) {
                    found[from[j]] = found[queue[i]] + 1;
                    queue[size++] = from[j];
                }
            }
        }
        return found;
    }

    /** The state behind an answer's ids; dead where no answer begins so. */
    int after(int[] ids) {
        int state = begin;
        for (int each : ids) {
            state = step(state, each);
        }
        return state;
    }

    /** The state behind one id. */
    int step(int state, int token) {
        byte[] text = state == begin ? vocabulary.firstText(token) : vocabulary.text(token);
        return text.length == 0 ? dead : automaton.after(text, state == begin ? automaton.start : state);
    }

    /** Where an id leads within an answer: sources, each with its target behind it. */
    int[] moves(int token) {
        byte[] text = vocabulary.text(token);
        IntStack found = new IntStack(16);
        for (int source : text.length == 0 ? new int[0] : sources[automaton.classOf[text[0] & 0xFF]]) {
            int to = automaton.after(text, source);
            if (to != dead) {
                found.push(source);
                found.push(to);
            }
        }
        return found.toArray();
    }
}
