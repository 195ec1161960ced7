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
    private final Set<String> decoding;
    private final int unknown;
    /** Markers but for those that stand for unknown characters, which forge nothing. */
    private final Set<Integer> forgeable;

    private HuggingFaceTokenizer(HfFile file, HfAddedTokens added, int size, SortedMap<Integer, String> markers) {
        super(size, markers);
        this.model = file.model;
        this.added = added;
        this.preTokenizer = file.preTokenizer;
        this.decoder = file.decoder;
        this.decoding = file.decoding;
        this.unknown = file.unknown() == null ? NONE : idOf(file.unknown(), added, file.model);
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

    private static int idOf(String token, HfAddedTokens added, HfModel model) {
        int id = added.id(token);
        return id < 0 ? model.vocabulary().id(token) : id;
    }

    /** Without a decoder, spaces stand between tokens. */
    @Override
    public boolean writes(int id) {
        String token = decoder == null ? null : token(id, model, added);
        return token != null && id != unknown && !markers.containsKey(id) && !looksSpecial(token);
    }

    @Override
    public byte @Nullable [] bytes(int id) {
        String token = piece(id);
        if (decoding.contains("ByteLevel") && !added.holds(id)) {
            byte[] found = ByteChars.bytes(token);
            return found == null ? new byte[0] : found;
        }
        int value = decoding.contains("ByteFallback") ? HfDecoder.byteValue(token) : -1;
        return value < 0 ? null : new byte[] {(byte) value};
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
