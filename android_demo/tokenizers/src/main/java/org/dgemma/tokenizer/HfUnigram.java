package org.dgemma.tokenizer;


/** The unigram model of huggingface/tokenizers (models/unigram): Viterbi in double, unknown runs fused. */
final class HfUnigram implements HfModel {
    private static final double UNKNOWN_PENALTY = 10;

    private final HfVocabulary vocabulary;
    private final int size;
    private final int unknown;
    private final boolean byteFallback;
    private final int[] byteIds;
    private final Viterbi viterbi;

    /** `scores` by id, one for every entry; `unknown` is -1 without one. */
    HfUnigram(HfVocabulary vocabulary, double[] scores, int unknown, boolean byteFallback) {
        if (unknown >= scores.length) {
            throw new TokenizerException("its unknown id is not in the vocabulary");
        }
        this.vocabulary = vocabulary;
        this.size = scores.length;
        this.unknown = unknown;
        this.byteFallback = byteFallback;
        this.byteIds = vocabulary.byteIds();
        int[] slots = new int[vocabulary.size()];
        for (int slot = 0; slot < slots.length; slot++) {
            slots[slot] = slot;
        }
        double lowest = Double.POSITIVE_INFINITY;
        for (double score : scores) {
            lowest = Math.min(lowest, score);
        }
        viterbi = new Viterbi(new PrefixSearch(vocabulary.strings, slots), -1, lowest - UNKNOWN_PENALTY, false) {
            @Override
            double score(int slot, int length) {
                return scores[vocabulary.idOfSlot(slot)];
            }
        };
    }

    @Override
    public HfVocabulary vocabulary() {
        return vocabulary;
    }

    @Override
    public int size() {
        return size;
    }

    @Override
    public void encode(byte[] text, Ints ids) {
        int[] run = {-1}; // where a run of unknown characters began
        viterbi.segment(text, text.length, (from, to, slot) -> {
            int id = slot < 0 ? unknown : vocabulary.idOfSlot(slot);
            if (slot < 0 && unknown < 0) {
                throw new TokenizerException("the text cannot be encoded; give valid Unicode text");
            }
            if (id == unknown) {
                run[0] = run[0] < 0 ? from : run[0];
            } else {
                flush(text, run, from, ids);
                ids.add(id);
            }
        });
        flush(text, run, text.length, ids);
    }

    private void flush(byte[] text, int[] run, int to, Ints ids) {
        if (run[0] >= 0) {
            int id = vocabulary.id(text, run[0], to);
            if (id >= 0) {
                ids.add(id);
            } else if (!byteFallback || !HfVocabulary.addBytes(byteIds, text, run[0], to, ids)) {
                ids.add(unknown);
            }
            run[0] = -1;
        }
    }
}
