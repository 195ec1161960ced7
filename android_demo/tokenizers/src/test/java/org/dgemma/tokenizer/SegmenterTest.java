package org.dgemma.tokenizer;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.junit.Test;

/** Each fast segmenter against a plain one, and the time that a megabyte takes. */
public class SegmenterTest {
    private final TokenizerVectors vectors;

    public SegmenterTest() throws IOException {
        vectors = new TokenizerVectors();
    }

    @Test
    public void bpeMergesWhatTheNaiveLoopMerges() throws IOException {
        SentencePieceModel model = new SentencePieceModel(vectors.file("sp-bpe-bytes"));
        int merges = 0;
        for (byte[] text : texts("sp-bpe-bytes")) {
            List<String> naive = naiveMerges(model, text);
            assertEquals(naive, pieces(new SentencePieceBpe(model), text));
            merges += text.length - naive.size();
        }
        assertTrue("merges: " + merges, merges > 1000);
    }

    /** Over and over: of all neighbours that make a piece, the best, of equals the leftmost. */
    private static List<String> naiveMerges(SentencePieceModel model, byte[] text) {
        List<int[]> spans = new ArrayList<>();
        for (int at = 0; at < text.length; ) {
            int step = model.step(text, at, text.length);
            spans.add(new int[] {at, at + Math.abs(step), step < 0 ? 1 : 0});
            at += Math.abs(step);
        }
        while (true) {
            int best = -1;
            float bestScore = 0;
            for (int i = 0; i + 1 < spans.size(); i++) {
                if (spans.get(i)[2] + spans.get(i + 1)[2] == 0) {
                    int id = model.ordinary.find(text, spans.get(i)[0], spans.get(i + 1)[1]);
                    if (id >= 0 && (best < 0 || model.score(id) > bestScore)) {
                        best = i;
                        bestScore = model.score(id);
                    }
                }
            }
            if (best < 0) {
                break;
            }
            spans.get(best)[1] = spans.remove(best + 1)[1];
        }
        List<String> pieces = new ArrayList<>();
        for (int[] span : spans) {
            pieces.add(span[0] + ":" + span[1] + ":" + model.id(text, span[0], span[1]));
        }
        return pieces;
    }

    @Test
    public void huggingFaceMergesWhatTheNaiveLoopMerges() throws IOException {
        String[][] merges = {{"a", "b"}, {"ab", "ab"}, {"b", "c"}, {"c", "a"}, {"a", "bc"}, {"abab", "c"}, {"a", "a"}};
        HfVocabulary vocabulary = new HfVocabulary(64);
        PackedStrings pairs = new PackedStrings(8, 64);
        List<String> tokens = new ArrayList<>();
        tokens.add("a");
        tokens.add("b");
        tokens.add("c");
        for (String[] pair : merges) {
            pairs.add(Utf8.encode(pair[0]), 0, pair[0].length());
            pairs.add(Utf8.encode(pair[1]), 0, pair[1].length());
            tokens.add(pair[0] + pair[1]);
        }
        for (String token : tokens) {
            vocabulary.put(Utf8.encode(token), 0, token.length(), tokens.indexOf(token));
        }
        vocabulary.close();
        HfBpe bpe = new HfBpe(vocabulary, pairs, new HfBpe.Options());
        TokenizerVectors.SplitMix random = new TokenizerVectors.SplitMix(11);
        for (int i = 0; i < 1000; i++) {
            List<String> symbols = new ArrayList<>();
            for (int n = 1 + random.below(14); n > 0; n--) {
                symbols.add("abc".substring(random.below(3)).substring(0, 1));
            }
            String text = String.join("", symbols);
            Ints ids = new Ints(8);
            bpe.encode(Utf8.encode(text), ids);
            while (mergeOnce(symbols, merges)) {}
            List<String> found = new ArrayList<>();
            for (int id : ids.toArray()) {
                found.add(tokens.get(id));
            }
            assertEquals(text, symbols, found);
        }
    }

    /** The first rule that applies anywhere, at the leftmost place. */
    private static boolean mergeOnce(List<String> symbols, String[][] merges) {
        for (String[] pair : merges) {
            for (int i = 0; i + 1 < symbols.size(); i++) {
                if (symbols.get(i).equals(pair[0]) && symbols.get(i + 1).equals(pair[1])) {
                    symbols.set(i, pair[0] + pair[1]);
                    symbols.remove(i + 1);
                    return true;
                }
            }
        }
        return false;
    }

    @Test
    public void viterbiFindsThePathOfTheNaiveSearch() {
        String[] words = {"a", "b", "ab", "abc", "c", "bc", "cab", "é", "aé"};
        double[] scores = {-3, -3.5, -4, -5.5, -3, -4.5, -6, -2, -4.5};
        PackedStrings strings = new PackedStrings(8, 8);
        int[] numbers = new int[words.length];
        for (int i = 0; i < words.length; i++) {
            byte[] word = Utf8.encode(words[i]);
            numbers[i] = strings.add(word, 0, word.length);
        }
        Viterbi viterbi = new Viterbi(new PrefixSearch(strings, numbers), -1, -20, false) {
            @Override
            double score(int id, int length) {
                return scores[id];
            }
        };
        TokenizerVectors.SplitMix random = new TokenizerVectors.SplitMix(3);
        for (int i = 0; i < 300; i++) {
            StringBuilder made = new StringBuilder();
            for (int n = random.below(10); n > 0; n--) {
                made.append("abcéx".charAt(random.below(5)));
            }
            byte[] text = Utf8.encode(made.toString());
            double[] sum = {0};
            viterbi.segment(text, text.length, (from, to, id) -> {
                assertTrue(id < 0 || strings.equals(id, text, from, to));
                sum[0] += id < 0 ? -20 : scores[id];
            });
            assertEquals(made.toString(), naiveScore(made.toString(), words, scores), sum[0], 1e-9);
        }
    }

    /** Every path there is. */
    private static double naiveScore(String text, String[] words, double[] scores) {
        if (text.isEmpty()) {
            return 0;
        }
        double best = -20 + naiveScore(text.substring(1), words, scores);
        boolean single = false;
        for (String word : words) {
            single |= word.equals(text.substring(0, 1));
        }
        best = single ? Double.NEGATIVE_INFINITY : best;
        for (int i = 0; i < words.length; i++) {
            if (text.startsWith(words[i])) {
                best = Math.max(best, scores[i] + naiveScore(text.substring(words[i].length()), words, scores));
            }
        }
        return best;
    }

    @Test
    public void prefixSearchFindsWhatALoopFinds() throws IOException {
        SentencePieceModel model = new SentencePieceModel(vectors.file("tiny"));
        int[] all = new int[model.size()];
        for (int i = 0; i < all.length; i++) {
            all[i] = i;
        }
        PrefixSearch search = new PrefixSearch(model.pieces, all);
        int found = 0;
        for (byte[] text : texts("tiny")) {
            for (int at = 0; at < text.length; at++) {
                int longest = -1;
                for (int id : all) {
                    int length = model.pieces.length(id);
                    boolean begins = length <= text.length - at && model.pieces.equals(id, text, at, at + length);
                    longest = begins && (longest < 0 || length > model.pieces.length(longest)) ? id : longest;
                }
                assertEquals(longest, search.longest(text, at, text.length));
                found += longest >= 0 ? 1 : 0;
            }
        }
        assertTrue("found: " + found, found > 500);
    }

    /** Quadratic time would take hours: 10¹² steps a string. */
    @Test(timeout = 300_000)
    public void aMegabyteTakesLinearTime() throws IOException {
        StringBuilder mixed = new StringBuilder();
        TokenizerVectors.SplitMix random = new TokenizerVectors.SplitMix(5);
        while (mixed.length() < 1 << 20) {
            mixed.append(vectors.string("tiny", random));
        }
        StringBuilder same = new StringBuilder();
        StringBuilder spaces = new StringBuilder();
        for (int i = 0; i < 1 << 19; i++) {
            same.append("ab");
            spaces.append("  ");
        }
        for (String name : new String[] {"tiny", "sp-bpe-bytes", "sp-unigram-nfkc", "hf-gemma", "hf-llama3"}) {
            Tokenizer tokenizer = vectors.tokenizer(name);
            for (CharSequence text : new CharSequence[] {mixed, same, spaces}) {
                int[] ids = tokenizer.encodeUser(text.toString());
                assertTrue(tokenizer.decode(ids).length() <= text.length() * 2 + 1);
            }
        }
    }

    private List<byte[]> texts(String name) {
        List<byte[]> texts = new ArrayList<>();
        TokenizerVectors.SplitMix random = vectors.random(name, 1000);
        for (int i = 0; i < 100; i++) {
            texts.add(Utf8.encode(vectors.string(name, random)));
        }
        return texts;
    }

    private static List<String> pieces(Segmenter segmenter, byte[] text) {
        List<String> pieces = new ArrayList<>();
        segmenter.segment(text, text.length, (from, to, id) -> pieces.add(from + ":" + to + ":" + id));
        return pieces;
    }
}
