package org.dgemma.tokenizer;

import java.nio.charset.StandardCharsets;
import org.jspecify.annotations.Nullable;

/** Text as SentencePiece segments it: characters mapped, and as many spaces, marked, as the model was trained on. */
final class SentencePieceNormalizer {
    static final byte[] MARK = "\u2581".getBytes(StandardCharsets.UTF_8);
    private static final byte[] SPACE = {' '};
    private static final byte[] REPLACEMENT = "\uFFFD".getBytes(StandardCharsets.UTF_8);

    boolean addDummyPrefix = true;
    boolean removeExtraWhitespaces = true;
    boolean escapeWhitespaces = true;
    boolean suffix;
    @Nullable CharsMap charsMap;
    /** User-defined symbols, which pass unchanged. */
    @Nullable PrefixSearch symbols;
    @Nullable PackedStrings pieces;

    Bytes normalize(byte[] text, int size) {
        return new Run(text, size).normalize();
    }

    /** One text: the position and the prefix that was looked at last. */
    private final class Run {
        private final byte[] text;
        private final int size;
        private final @Nullable CharsMap map = charsMap == null ? null : new CharsMap(charsMap);
        private byte[] source = SPACE;
        private int from;
        private int to;
        private int consumed;

        Run(byte[] text, int size) {
            this.text = text;
            this.size = size;
        }

        Bytes normalize() {
            Bytes out = new Bytes(size + size / 2 + 8);
            int at = 0;
            if (removeExtraWhitespaces) {
                at = skipSpaces();
            }
            if (at == size) {
                return out;
            }
            byte[] space = escapeWhitespaces ? MARK : SPACE;
            if (addDummyPrefix && !suffix) {
                out.add(space);
            }
            boolean afterSpace = removeExtraWhitespaces;
            while (at < size) {
                prefix(at);
                while (afterSpace && from < to && source[from] == ' ') {
                    from++;
                }
                for (int i = from; i < to; i++) {
                    if (source[i] == ' ') {
                        out.add(space);
                    } else {
                        out.add(source[i]);
                    }
                }
                if (from < to) {
                    afterSpace = removeExtraWhitespaces && source[to - 1] == ' ';
                }
                at += consumed;
            }
            while (removeExtraWhitespaces && out.endsWith(space)) {
                out.size -= space.length;
            }
            if (addDummyPrefix && suffix) {
                out.add(space);
            }
            return out;
        }

        private int skipSpaces() {
            int at = 0;
            while (at < size) {
                prefix(at);
                if (to - from != 1 || source[from] != ' ') {
                    break;
                }
                at += consumed;
            }
            return at;
        }

        /** Sets what the next characters become (`source` from…to) and how many bytes they are (`consumed`). */
        private void prefix(int at) {
            source = text;
            from = at;
            int symbol = symbols == null ? -1 : symbols.longest(text, at, size);
            if (symbol >= 0 && pieces != null) {
                consumed = pieces.length(symbol);
                to = at + consumed;
                return;
            }
            int start = map == null ? -1 : map.find(text, at, size);
            if (map != null && start >= 0) {
                consumed = map.matched();
                source = map.bytes();
                from = start;
                to = map.end(start);
                return;
            }
            consumed = Utf8.valid(text, at, size);
            to = at + consumed;
            if (consumed == 0) {
                consumed = 1;
                source = REPLACEMENT;
                from = 0;
                to = REPLACEMENT.length;
            }
        }
    }
}
