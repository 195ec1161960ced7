package org.dgemma.tokenizer;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/** Tokens that are cut out of the text before the model sees it; AddedVocabulary of huggingface/tokenizers. */
final class HfAddedTokens {
    /** One token as the file has it. */
    static final class Token {
        String content = "";
        boolean singleWord;
        boolean leftStrip;
        boolean rightStrip;
        boolean normalized = true;
        boolean special;
    }

    private final Map<String, Integer> ids = new HashMap<>();
    private final SortedMap<Integer, Token> tokens = new TreeMap<>();
    private final Map<Integer, String> normalizedForms = new HashMap<>();
    private final @Nullable HfNormalizer normalizer;
    private final Search raw;
    private final Search normalized;

    HfAddedTokens(List<Token> listed, HfModel model, @Nullable HfNormalizer normalizer) {
        this.normalizer = normalizer;
        int next = model.size(); // the file's own ids do not count, only the order
        for (Token token : listed) {
            if (token.content.isEmpty()) {
                continue;
            }
            Integer id = ids.get(token.content);
            if (id == null) {
                int known = model.vocabulary().id(token.content);
                id = known >= 0 ? known : next++;
            }
            ids.put(token.content, id);
            tokens.put(id, token);
            normalizedForms.remove(id);
            if (token.normalized && normalizer != null) {
                HfPart part = new HfPart(token.content, true);
                normalizer.apply(part);
                normalizedForms.put(id, part.text);
            }
        }
        raw = new Search(false);
        normalized = new Search(true);
    }

    /** Different contents that the model's vocabulary lacks. */
    int beyond(HfModel model) {
        int count = 0;
        for (String content : ids.keySet()) {
            count += model.vocabulary().id(content) < 0 ? 1 : 0;
        }
        return count;
    }

    boolean holds(int id) {
        return tokens.containsKey(id);
    }

    /** Id of a token, -1 if it is not an added one. */
    int id(String content) {
        return ids.getOrDefault(content, -1);
    }

    Iterable<Integer> specialIds() {
        List<Integer> special = new ArrayList<>();
        for (Map.Entry<Integer, Token> entry : tokens.entrySet()) {
            if (entry.getValue().special) {
                special.add(entry.getKey());
            }
        }
        return special;
    }

    /** The token as the decoder gets it, null if the id is not an added one. */
    @Nullable String token(int id) {
        Token token = tokens.get(id);
        String form = normalizedForms.get(id);
        return token == null ? null : form == null ? token.content : form;
    }

    /** Cuts out tokens that stand in the text as it is, normalizes the rest, and cuts out the others there. */
    List<HfPart> extract(String text) {
        List<HfPart> parts = new ArrayList<>();
        raw.cut(new HfPart(text, true), parts);
        List<HfPart> out = new ArrayList<>(parts.size());
        for (HfPart part : parts) {
            if (part.isToken()) {
                out.add(part);
                continue;
            }
            if (normalizer != null) {
                normalizer.apply(part);
            }
            normalized.cut(part, out);
        }
        return out;
    }

    /** The longest of some tokens at the leftmost place, again and again. */
    private final class Search {
        private final PackedStrings strings = new PackedStrings(tokens.size(), 16 * tokens.size());
        private final Ints found = new Ints(tokens.size());
        private final PrefixSearch search;

        Search(boolean normalizedOnes) {
            Ints numbers = new Ints(tokens.size());
            for (Map.Entry<Integer, Token> entry : tokens.entrySet()) {
                if (entry.getValue().normalized == normalizedOnes) {
                    String form = normalizedForms.get(entry.getKey());
                    byte[] pattern = Utf8.encode(form == null ? entry.getValue().content : form);
                    numbers.add(strings.add(pattern, 0, pattern.length));
                    found.add(entry.getKey());
                }
            }
            search = new PrefixSearch(strings, numbers.toArray());
        }

        void cut(HfPart part, List<HfPart> out) {
            if (found.size() == 0 || part.text.isEmpty()) {
                part.slice(0, part.text.length(), out);
                return;
            }
            byte[] bytes = Utf8.encode(part.text);
            String text = part.text;
            int taken = 0; // in UTF-16 units, as start and stop
            int start = 0;
            for (int at = 0, behind = 0; at < bytes.length; ) {
                int string = search.longest(bytes, at, bytes.length);
                if (string < 0) {
                    at++;
                    continue;
                }
                start += Utf8.units(bytes, behind, at);
                behind = at;
                at += strings.length(string);
                int stop = start + Utf8.units(bytes, behind, at);
                Token token = tokens.get(found.get(string));
                if (token == null || token.singleWord && !isWord(text, start, stop)) {
                    continue;
                }
                int from = token.leftStrip ? Math.max(spaceBefore(text, start), taken) : start;
                part.slice(taken, from, out);
                out.add(new HfPart(text.substring(start, stop), found.get(string), false));
                taken = token.rightStrip ? spaceAfter(text, stop) : stop;
            }
            part.slice(taken, text.length(), out);
        }
    }

    private static boolean isWord(String text, int start, int stop) {
        return (start == 0 || !Characters.isWord(text.codePointBefore(start)))
                && (stop == text.length() || !Characters.isWord(text.codePointAt(stop)));
    }

    private static int spaceBefore(String text, int start) {
        int at = start;
        while (at > 0 && Characters.isSpace(text.charAt(at - 1))) {
            at--;
        }
        return at;
    }

    private static int spaceAfter(String text, int stop) {
        int at = stop;
        while (at < text.length() && Characters.isSpace(text.charAt(at))) {
            at++;
        }
        return at;
    }
}
