package org.dgemma.tokenizer;

import java.util.Arrays;

/**
 * The best path of a unigram model, where each position keeps the best piece that ends at it: O(n · longest piece).
 *
 * <p>sentencepiece adds scores in float, Hugging Face in double, which decides near-ties: `inFloat` says which. Where a
 * sum in float has grown beyond 100,000, sentencepiece counts from there anew, so that long texts do not lose the small
 * differences; that rounds too, so it is done at the same places here.
 */
abstract class Viterbi implements Segmenter {
    private static final double FAR = 100_000;

    private final PrefixSearch pieces;
    private final int unknown;
    private final double unknownScore;
    private final boolean inFloat;

    Viterbi(PrefixSearch pieces, int unknown, double unknownScore, boolean inFloat) {
        this.pieces = pieces;
        this.unknown = unknown;
        this.unknownScore = unknownScore;
        this.inFloat = inFloat;
    }

    /** NaN for a piece that must not be used. */
    abstract double score(int id, int length);

    @Override
    public void segment(byte[] text, int size, Output out) {
        int[] ids = new int[size + 1];
        int[] starts = new int[size + 1];
        double[] best = new double[size + 1];
        Arrays.fill(starts, -1);
        for (int at = 0; at < size; ) {
            int character = Utf8.step(text, at, size);
            if (inFloat && Math.abs(best[at]) > FAR) {
                startAnew(at, size, starts, best);
            }
            boolean single = false;
            long node = pieces.first(text[at]);
            for (int depth = 1; node != PrefixSearch.NOTHING; depth++) {
                int id = pieces.found(node, depth);
                double score = id < 0 ? Double.NaN : score(id, depth);
                if (!Double.isNaN(score)) {
                    offer(at, at + depth, id, score + best[at], ids, starts, best);
                    single |= depth == character;
                }
                node = at + depth < size ? pieces.next(node, depth, text[at + depth]) : PrefixSearch.NOTHING;
            }
            if (!single) {
                offer(at, at + character, unknown, unknownScore + best[at], ids, starts, best);
            }
            at += character;
        }
        emit(ids, starts, size, out);
    }

    /** Subtracts the sum at `at` from those of all positions that a path reaches already. */
    private void startAnew(int at, int size, int[] starts, double[] best) {
        double sum = best[at];
        int last = Math.min(size, at + Math.max(pieces.longestString(), 4));
        for (int i = at; i <= last; i++) {
            if (starts[i] >= 0) {
                best[i] = (float) (best[i] - sum);
            }
        }
    }

    private void offer(int from, int to, int id, double exact, int[] ids, int[] starts, double[] best) {
        double sum = inFloat ? (float) exact : exact;
        if (starts[to] < 0 || sum > best[to]) {
            ids[to] = id;
            starts[to] = from;
            best[to] = sum;
        }
    }

    private static void emit(int[] ids, int[] starts, int size, Output out) {
        Ints ends = new Ints(size / 2);
        for (int end = size; end > 0; end = starts[end]) {
            ends.add(end);
        }
        while (ends.size() > 0) {
            int end = ends.pop();
            out.piece(starts[end], end, ids[end]);
        }
    }
}
