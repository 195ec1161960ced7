package org.dgemma.tokenizer;


/** UTF-8 with one behaviour on every platform: the decoders of Android and of desktop JVMs treat damage differently. */
final class Utf8 {
    static final char REPLACEMENT = '\uFFFD';

    private Utf8() {}

    /** Throws TokenizerException for a surrogate without its partner. */
    static byte[] encode(String text) {
        int length = text.length();
        int size = 0;
        for (int i = 0; i < length; i++) {
            char c = text.charAt(i);
            if (c < 0x80) {
                size += 1;
            } else if (c < 0x800) {
                size += 2;
            } else if (!Character.isSurrogate(c)) {
                size += 3;
            } else if (Character.isHighSurrogate(c) && i + 1 < length && Character.isLowSurrogate(text.charAt(i + 1))) {
                size += 4;
                i++;
            } else {
                throw new TokenizerException("the text cannot be encoded; give valid Unicode text");
            }
        }
        byte[] bytes = new byte[size];
        int at = 0;
        for (int i = 0; i < length; ) {
            int c = text.codePointAt(i);
            i += Character.charCount(c);
            at = put(bytes, at, c);
        }
        return bytes;
    }

    /** Writes a code point and returns the position behind it. */
    static int put(byte[] bytes, int at, int c) {
        if (c < 0x80) {
            bytes[at++] = (byte) c;
            return at;
        }
        if (c < 0x800) {
            bytes[at++] = (byte) (0xC0 | c >> 6);
        } else {
            if (c < 0x10000) {
                bytes[at++] = (byte) (0xE0 | c >> 12);
            } else {
                bytes[at++] = (byte) (0xF0 | c >> 18);
                bytes[at++] = (byte) (0x80 | c >> 12 & 0x3F);
            }
            bytes[at++] = (byte) (0x80 | c >> 6 & 0x3F);
        }
        bytes[at++] = (byte) (0x80 | c & 0x3F);
        return at;
    }

    /** Length by the first byte alone, at most what is left: how sentencepiece walks over characters. */
    static int step(byte[] bytes, int from, int to) {
        int high = bytes[from] >> 4 & 0xF;
        int length = high < 12 ? 1 : high < 14 ? 2 : high - 11;
        return Math.min(length, to - from);
    }

    /** Bytes of the well-formed character at `from`, or 0. */
    static int valid(byte[] bytes, int from, int to) {
        int length = wellFormed(bytes, from, to);
        return length > 0 ? length : 0;
    }

    /** The code point at `from`, which must be well-formed. */
    static int codePoint(byte[] bytes, int from) {
        int b = bytes[from];
        if (b >= 0) {
            return b;
        }
        int second = bytes[from + 1] & 0x3F;
        if ((b & 0xE0) == 0xC0) {
            return (b & 0x1F) << 6 | second;
        }
        int third = bytes[from + 2] & 0x3F;
        if ((b & 0xF0) == 0xE0) {
            return (b & 0x0F) << 12 | second << 6 | third;
        }
        return (b & 0x07) << 18 | second << 12 | third << 6 | bytes[from + 3] & 0x3F;
    }

    /** Every maximal part that is damaged becomes one U+FFFD (Unicode, section 3.9). */
    static String lossy(byte[] bytes, int from, int to) {
        StringBuilder text = new StringBuilder(to - from);
        while (from < to) {
            int length = wellFormed(bytes, from, to);
            if (length > 0) {
                text.appendCodePoint(codePoint(bytes, from));
                from += length;
            } else {
                text.append(REPLACEMENT);
                from -= length;
            }
        }
        return text.toString();
    }

    static String strict(byte[] bytes, int from, int to) {
        if (!isValid(bytes, from, to)) {
            throw new TokenizerException("a piece is not UTF-8");
        }
        return lossy(bytes, from, to);
    }

    static boolean isValid(byte[] bytes, int from, int to) {
        while (from < to) {
            int length = wellFormed(bytes, from, to);
            if (length <= 0) {
                return false;
            }
            from += length;
        }
        return true;
    }

    /** UTF-16 units of well-formed bytes. */
    static int units(byte[] bytes, int from, int to) {
        int units = 0;
        for (int i = from; i < to; i++) {
            int b = bytes[i] & 0xFF;
            units += b < 0x80 || b >= 0xC0 ? (b >= 0xF0 ? 2 : 1) : 0;
        }
        return units;
    }

    /** Length of the character, or minus the length of the damaged part (at least 1). */
    private static int wellFormed(byte[] bytes, int from, int to) {
        int b = bytes[from] & 0xFF;
        if (b < 0x80) {
            return 1;
        }
        if (b < 0xC2 || b > 0xF4) {
            return -1;
        }
        int length = b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
        int low = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80;
        int high = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
        for (int i = 1; i < length; i++) {
            int next = from + i < to ? bytes[from + i] & 0xFF : 0;
            if (next < low || next > high) {
                return -i;
            }
            low = 0x80;
            high = 0xBF;
        }
        return length;
    }
}
