package org.dgemma.tokenizer;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.SortedMap;
import org.jspecify.annotations.Nullable;

/** What both formats share: markers, which a user cannot type and nobody sees. */
abstract class MarkedTokenizer implements Tokenizer {
    final SortedMap<Integer, String> markers;
    private final int vocabSize;

    /** `markers` are ids and their strings. */
    MarkedTokenizer(int vocabSize, SortedMap<Integer, String> markers) {
        this.vocabSize = vocabSize;
        this.markers = markers;
    }

    /** Text of ids that are no markers; a TokenizerException says in a few words what is wrong. */
    abstract String decodeAll(int[] ids);

    /** The piece as the file spells it; `id` lies in the vocabulary. */
    abstract String piece(int id);

    @Override
    public final int vocabSize() {
        return vocabSize;
    }

    @Override
    public final int[] encodeUser(String text, int before, int after) {
        if (before != NONE || after != NONE) {
            int[] between = encodeBetween(text, markers.getOrDefault(before, ""), markers.getOrDefault(after, ""));
            if (between != null) {
                return between;
            }
        }
        List<String> parts = Collections.singletonList(text);
        for (String marker : markers.values()) {
            if (marker.codePointCount(0, marker.length()) > 1) {
                parts = cut(parts, marker);
            }
        }
        Ints ids = new Ints(text.length());
        boolean marked = false;
        for (String part : parts) {
            for (int id : encode(part)) {
                ids.add(id);
                marked |= markers.containsKey(id);
            }
        }
        return marked ? encodeCharacters(text) : ids.toArray();
    }

    /** Ids of text between two markers; null where they do not matter to the format, or where the text holds a marker. */
    int @Nullable [] encodeBetween(String text, String before, String after) {
        return null;
    }

    @Override
    public final String decode(int[] ids) {
        Ints shown = new Ints(ids.length);
        for (int id : ids) {
            if (id < vocabSize && !markers.containsKey(id)) {
                shown.add(id);
            }
        }
        try {
            return decodeAll(shown.toArray());
        } catch (TokenizerException error) {
            throw new TokenizerException(
                    "ids cannot be decoded (" + error.getMessage() + "); they must be below " + vocabSize, error);
        }
    }

    @Override
    public final String[] pieces(int[] ids) {
        String[] pieces = new String[ids.length];
        for (int i = 0; i < ids.length; i++) {
            boolean outside = ids[i] < 0 || ids[i] >= vocabSize;
            pieces[i] = markers.containsKey(ids[i]) ? "" : outside ? "\uFFFD" : shown(piece(ids[i]));
        }
        return pieces;
    }

    String shown(String piece) {
        return piece.startsWith("<0x") && piece.endsWith(">") ? "\uFFFD" : piece.replace('\u2581', ' ');
    }

    /** True for pieces such as &lt;end_of_turn&gt;, false for those of bytes. */
    static boolean looksSpecial(String piece) {
        return piece.codePointCount(0, piece.length()) > 2
                && piece.startsWith("<")
                && piece.endsWith(">")
                && !piece.startsWith("<0x");
    }

    /** For text of which normalization makes a marker out of other characters. */
    private int[] encodeCharacters(String text) {
        Ints ids = new Ints(text.length());
        for (int at = 0; at < text.length(); ) {
            int end = at + Character.charCount(text.codePointAt(at));
            for (int id : encode(text.substring(at, end))) {
                if (!markers.containsKey(id)) {
                    ids.add(id);
                }
            }
            at = end;
        }
        return ids.toArray();
    }

    /** Cuts inside every occurrence of the marker, after its first character: "&lt;" + "end_of_turn&gt;". */
    private static List<String> cut(List<String> parts, String marker) {
        List<String> pieces = new ArrayList<>(parts.size());
        int first = Character.charCount(marker.codePointAt(0));
        for (String part : parts) {
            int start = 0;
            for (int at = part.indexOf(marker); at >= 0; at = part.indexOf(marker, at + marker.length())) {
                pieces.add(part.substring(start, at + first));
                start = at + first;
            }
            pieces.add(part.substring(start));
        }
        return pieces;
    }
}
