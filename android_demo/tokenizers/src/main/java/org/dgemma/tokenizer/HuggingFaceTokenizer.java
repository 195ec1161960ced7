package org.dgemma.tokenizer;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/** `tokenizer.json` of huggingface/tokenizers, without the special tokens that its post-processor would add. */
final class HuggingFaceTokenizer extends MarkedTokenizer {
    private static final String NO_CHARACTER = "\uDBFF\uDFFE"; // U+10FFFE, in no vocabulary

    private final HfModel model;
    private final HfAddedTokens added;
    private final @Nullable HfPreTokenizer preTokenizer;
    private final @Nullable HfDecoder decoder;
    /** Markers but for those that stand for unknown characters, which forge nothing. */
    private final Set<Integer> forgeable;

    private HuggingFaceTokenizer(HfFile file, HfAddedTokens added, int size, SortedMap<Integer, String> markers) {
        super(size, markers);
        this.model = file.model;
        this.added = added;
        this.preTokenizer = file.preTokenizer;
        this.decoder = file.decoder;
        Set<Integer> found = new HashSet<>(markers.keySet());
        for (int id : encode(NO_CHARACTER)) {
            found.remove(id);
        }
        this.forgeable = found;
    }

    /** Special tokens become markers, and those of `markerIds`, the manifest's, that look special. */
    static HuggingFaceTokenizer read(byte[] bytes, int[] markerIds) {
        HfFile file = new HfFile(bytes);
        HfAddedTokens added = new HfAddedTokens(file.added, file.model, file.normalizer);
        int size = file.model.size() + added.beyond(file.model);
        SortedMap<Integer, String> markers = new TreeMap<>();
        for (int id : added.specialIds()) {
            if (id < size) {
                markers.put(id, String.valueOf(token(id, file.model, added)));
            }
        }
        for (int id : markerIds) {
            String token = id < 0 || id >= size ? null : token(id, file.model, added);
            if (token != null && looksSpecial(token)) {
                markers.put(id, token);
            }
        }
        return new HuggingFaceTokenizer(file, added, size, markers);
    }

    @Override
    public int[] encode(String text) {
        Utf8.encode(text); // refuses lone surrogates, which a normalizer might hide
        Ints ids = new Ints(text.length() / 2);
        List<HfPart> cut = new ArrayList<>();
        for (HfPart part : added.extract(text)) {
            if (part.isToken()) {
                ids.add(part.token);
                continue;
            }
            cut.clear();
            if (preTokenizer == null) {
                cut.add(part);
            } else {
                preTokenizer.split(part, cut);
            }
            for (HfPart piece : cut) {
                if (!piece.text.isEmpty()) {
                    model.encode(Utf8.encode(piece.text), ids);
                }
            }
        }
        return ids.toArray();
    }

    @Override
    int @Nullable [] encodeBetween(String text, String before, String after) {
        int[] ids = encode(before + text + after);
        int start = before.isEmpty() ? 0 : 1;
        int end = ids.length - (after.isEmpty() ? 0 : 1);
        if (end < start || start > 0 && !before.equals(markers.get(ids[0]))
                || end < ids.length && !after.equals(markers.get(ids[end]))) {
            return null;
        }
        int[] between = Arrays.copyOfRange(ids, start, end);
        return isForged(between) || isForged(encode(text)) ? null : between;
    }

    private boolean isForged(int[] ids) {
        return Arrays.stream(ids).anyMatch(forgeable::contains);
    }

    @Override
    String decodeAll(int[] ids) {
        List<String> tokens = new ArrayList<>(ids.length);
        for (int id : ids) {
            if (id < 0) {
                throw new TokenizerException("can't convert negative int to unsigned");
            }
            String token = token(id, model, added);
            if (token != null) {
                tokens.add(token);
            }
        }
        return decoder == null ? String.join(" ", tokens) : String.join("", decoder.apply(tokens));
    }

    @Override
    String piece(int id) {
        String token = token(id, model, added);
        return token == null ? "\uFFFD" : token;
    }

    /** Also reads byte-level letters for space and line break. */
    @Override
    String shown(String piece) {
        return super.shown(piece).replace('\u0120', ' ').replace('\u010A', '\n');
    }

    private static @Nullable String token(int id, HfModel model, HfAddedTokens added) {
        String token = added.token(id);
        return token == null ? model.vocabulary().token(id) : token;
    }
}
