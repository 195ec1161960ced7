package org.dgemma.tokenizer;

import java.util.HashMap;
import java.util.Map;

/** Merges the neighbours whose joint piece scores best, the leftmost first, until none has one: O(n log n). */
final class SentencePieceBpe implements Segmenter {
    private final SentencePieceModel model;

    SentencePieceBpe(SentencePieceModel model) {
        this.model = model;
    }

    @Override
    public void segment(byte[] text, int size, Output out) {
        new Run(text, size).segment(out);
    }

    /** One text as a linked list of symbols; a symbol that was merged into its neighbour has length 0. */
    private final class Run {
        private final byte[] text;
        private final int[] starts;
        private final int[] lengths;
        private final int[] previous;
        private final int[] next;
        private final boolean[] frozen;
        private final int count;
        private final MergeQueue queue;
        /** Length of the left part of unused pieces that came up, by id: they are cut again in the end. */
        private final Map<Integer, Integer> leftParts = new HashMap<>();

        Run(byte[] text, int size) {
            this.text = text;
            starts = new int[size];
            lengths = new int[size];
            frozen = new boolean[size];
            int symbols = 0;
            for (int at = 0; at < size; symbols++) {
                int step = model.step(text, at, size);
                starts[symbols] = at;
                lengths[symbols] = Math.abs(step);
                frozen[symbols] = step < 0;
                at += lengths[symbols];
            }
            count = symbols;
            previous = new int[count];
            next = new int[count];
            for (int i = 0; i < count; i++) {
                previous[i] = i - 1;
                next[i] = i + 1 < count ? i + 1 : -1;
            }
            queue = new MergeQueue(count);
        }

        void segment(Output out) {
            for (int i = 1; i < count; i++) {
                propose(i - 1, i);
            }
            while (queue.pop()) {
                int left = queue.left();
                int right = next[left];
                if (lengths[left] == 0 || right < 0 || lengths[left] + lengths[right] != queue.value()) {
                    continue; // one of the two was merged with another symbol since
                }
                lengths[left] += lengths[right];
                lengths[right] = 0;
                next[left] = next[right];
                if (next[right] >= 0) {
                    previous[next[right]] = left;
                }
                propose(previous[left], left);
                propose(left, next[left]);
            }
            for (int i = count == 0 ? -1 : 0; i >= 0; i = next[i]) {
                emit(starts[i], starts[i] + lengths[i], out);
            }
        }

        private void propose(int left, int right) {
            if (left < 0 || right < 0 || frozen[left] || frozen[right]) {
                return;
            }
            int length = lengths[left] + lengths[right];
            int id = model.ordinary.find(text, starts[left], starts[left] + length);
            if (id < 0) {
                return;
            }
            queue.push(descending(model.score(id)), left, length);
            if (model.type(id) == SentencePieceModel.UNUSED) {
                leftParts.put(id, lengths[left]);
            }
        }

        private void emit(int from, int to, Output out) {
            Ints ends = new Ints(8);
            ends.add(to);
            int at = from;
            while (ends.size() > 0) {
                int end = ends.get(ends.size() - 1);
                int id = model.id(text, at, end);
                Integer cut = model.type(id) == SentencePieceModel.UNUSED ? leftParts.get(id) : null;
                if (cut == null) {
                    out.piece(at, end, id);
                    at = end;
                    ends.pop();
                } else {
                    ends.add(at + cut);
                }
            }
        }
    }

    /** An int that is the smaller the higher the score. */
    private static int descending(float score) {
        int bits = Float.floatToIntBits(score + 0.0f);
        return ~(bits ^ bits >> 31 & 0x7FFFFFFF);
    }
}
