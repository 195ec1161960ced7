package org.dgemma.runtime.structure;

import java.util.Arrays;

/**
 * The ids of one table of bytes by their common beginnings: a tree whose nodes stand in the order in which one walks through it,
 * each before its children.
 */
final class TokenTree {
    private static final int NONE = Integer.MAX_VALUE;

    private final byte[] letters;
    private final short[] depths;
    /** The node behind all that begins with this one. */
    private final int[] ends;
    /** The lowest of the ranks of ids that end here, NONE where none does. */
    private final int[] ranks;
    private final int size;
    private final int deepest;

    /** @param ranked ids by rank */
    TokenTree(byte[][] texts, int[] ranked, Patience patience) {
        Integer[] order = new Integer[ranked.length]; // ranks, by texts
        Arrays.setAll(order, rank -> rank);
        order = Arrays.stream(order).filter(rank -> texts[ranked[rank]].length > 0).toArray(Integer[]::new);
        Arrays.sort(order, (a, b) -> {
            int compared = compare(texts[ranked[a]], texts[ranked[b]]);
            return compared == 0 ? Integer.compare(a, b) : compared;
        });
        int most = 0;
        int longest = 0;
        for (int rank : order) {
            most += texts[ranked[rank]].length;
            longest = Math.max(longest, texts[ranked[rank]].length);
        }
        byte[] letters = new byte[most];
        short[] depths = new short[most];
        int[] ends = new int[most];
        int[] ranks = new int[most];
        int[] open = new int[longest + 1];
        int nodes = 0;
        byte[] before = {};
        for (int rank : order) {
            patience.poll();
            byte[] text = texts[ranked[rank]];
            int shared = shared(before, text);
            for (int depth = before.length - 1; depth >= shared; depth--) {
                ends[open[depth]] = nodes;
            }
            for (int depth = shared; depth < text.length; depth++) {
                letters[nodes] = text[depth];
                depths[nodes] = (short) depth;
                ranks[nodes] = NONE;
                open[depth] = nodes++;
            }
            ranks[open[text.length - 1]] = Math.min(ranks[open[text.length - 1]], rank);
            before = text;
        }
        for (int depth = before.length - 1; depth >= 0; depth--) {
            ends[open[depth]] = nodes;
        }
        size = nodes;
        deepest = longest;
        this.letters = Arrays.copyOf(letters, nodes);
        this.depths = Arrays.copyOf(depths, nodes);
        this.ends = Arrays.copyOf(ends, nodes);
        this.ranks = Arrays.copyOf(ranks, nodes);
    }

    private static int compare(byte[] one, byte[] other) {
        int shared = shared(one, other);
        boolean both = shared < one.length && shared < other.length;
        return both ? (one[shared] & 0xFF) - (other[shared] & 0xFF) : one.length - other.length;
    }

    private static int shared(byte[] one, byte[] other) {
        int count = 0;
        while (count < one.length && count < other.length && one[count] == other[count]) {
            count++;
        }
        return count;
    }

    /**
     * Where texts lead from a state.
     *
     * @param best [S] the lowest rank of the ids that lead to each state is left here; NONE before, for all
     * @param found these states are added, each once
     * @return how many nodes were looked at
     */
    long walk(ByteAutomaton automaton, int state, int[] best, IntStack found) {
        int[] states = new int[deepest + 1];
        states[0] = state;
        long work = 0;
        for (int node = 0; node < size; work++) {
            int depth = depths[node];
            int next = automaton.step(states[depth], letters[node]);
            if (next == automaton.states) {
                node = ends[node];
                continue;
            }
            states[depth + 1] = next;
            int rank = ranks[node++];
            if (rank != NONE) {
                if (best[next] == NONE) {
                    found.push(next);
                }
                best[next] = Math.min(best[next], rank);
            }
        }
        return work;
    }

    /** [S] for {@link #walk}. */
    static int[] best(int states) {
        int[] best = new int[states];
        Arrays.fill(best, NONE);
        return best;
    }

    static void forget(int[] best, IntStack found) {
        for (int i = 0; i < found.size; i++) {
            best[found.values[i]] = NONE;
        }
        found.size = 0;
    }
}
