package org.dgemma.tokenizer;

import org.jspecify.annotations.Nullable;

/** BPE as huggingface/tokenizers does it (models/bpe): merges by rank, the leftmost first, O(n log n). */
final class HfBpe implements HfModel {
    /** Options of the model, with the library's defaults. */
    static final class Options {
        boolean byteFallback;
        boolean fuseUnknown;
        boolean ignoreMerges;
        /** Null without one. */
        @Nullable String unknown;
    }

    private final HfVocabulary vocabulary;
    private final PairTable merges;
    private final Options options;
    private final int unknown;
    private final int[] byteIds;

    /** `pairs` are the merges by rank, left and right one after the other. */
    HfBpe(HfVocabulary vocabulary, PackedStrings pairs, Options options) {
        this.vocabulary = vocabulary;
        this.options = options;
        this.unknown = options.unknown == null ? -1 : vocabulary.id(options.unknown);
        this.byteIds = vocabulary.byteIds();
        this.merges = new PairTable(pairs.size() / 2);
        for (int i = 0; i + 1 < pairs.size(); i += 2) {
            // Left and right lie behind one another in the packed strings, so the merged token is there as well.
            merges.put(id(pairs, i, i), id(pairs, i + 1, i + 1), i / 2, id(pairs, i, i + 1));
        }
    }

    @Override
    public HfVocabulary vocabulary() {
        return vocabulary;
    }

    @Override
    public int size() {
        return vocabulary.size();
    }

    @Override
    public void encode(byte[] text, Ints ids) {
        int whole = options.ignoreMerges ? vocabulary.id(text, 0, text.length) : -1;
        if (whole >= 0) {
            ids.add(whole);
        } else {
            merge(symbols(text), ids);
        }
    }

    private Ints symbols(byte[] text) {
        Ints symbols = new Ints(text.length);
        boolean pending = false; // an unknown token that is not added yet, since the next one may be fused with it
        for (int at = 0; at < text.length; ) {
            int end = at + Utf8.step(text, at, text.length);
            int id = vocabulary.id(text, at, end);
            if (id >= 0) {
                if (pending) {
                    symbols.add(unknown);
                    pending = false;
                }
                symbols.add(id);
            } else if (!options.byteFallback || !HfVocabulary.addBytes(byteIds, text, at, end, symbols)) {
                if (options.unknown != null && unknown < 0) {
                    throw new TokenizerException("the text cannot be encoded; give valid Unicode text");
                }
                if (pending && !options.fuseUnknown) {
                    symbols.add(unknown);
                }
                pending = options.unknown != null;
            }
            at = end;
        }
        if (pending) {
            symbols.add(unknown);
        }
        return symbols;
    }

    private void merge(Ints symbols, Ints out) {
        int count = symbols.size();
        int[] previous = new int[count];
        int[] next = new int[count];
        MergeQueue queue = new MergeQueue(count);
        for (int i = 0; i < count; i++) {
            previous[i] = i - 1;
            next[i] = i + 1 < count ? i + 1 : -1;
            propose(symbols, i, next[i], queue);
        }
        while (queue.pop()) {
            int left = queue.left();
            int right = next[left];
            if (symbols.get(left) < 0 || right < 0) {
                continue;
            }
            int slot = merges.find(symbols.get(left), symbols.get(right));
            if (slot < 0 || merges.merged(slot) != queue.value()) {
                continue; // one of the two was merged with another symbol since
            }
            symbols.set(left, queue.value());
            symbols.set(right, -1);
            next[left] = next[right];
            if (next[right] >= 0) {
                previous[next[right]] = left;
            }
            propose(symbols, previous[left], left, queue);
            propose(symbols, left, next[left], queue);
        }
        for (int i = count == 0 ? -1 : 0; i >= 0; i = next[i]) {
            out.add(symbols.get(i));
        }
    }

    private void propose(Ints symbols, int left, int right, MergeQueue queue) {
        int slot = left < 0 || right < 0 ? -1 : merges.find(symbols.get(left), symbols.get(right));
        if (slot >= 0) {
            queue.push(merges.rank(slot), left, merges.merged(slot));
        }
    }

    private int id(PackedStrings pairs, int first, int last) {
        int id = vocabulary.id(pairs.bytes(), pairs.start(first), pairs.end(last));
        if (id < 0) {
            throw new TokenizerException("merge " + first / 2 + " joins tokens that are not in the vocabulary");
        }
        return id;
    }
}
