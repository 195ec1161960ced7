package org.dgemma.tokenizer;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** GPT-2's letters for bytes: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order. */
final class ByteChars {
    private static final char[] CHARS = new char[256];
    private static final short[] VALUES = new short[0x144];

    static {
        Arrays.fill(VALUES, (short) -1);
        char next = 0x100;
        for (int b = 0; b < 256; b++) {
            boolean itself = b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE;
            CHARS[b] = itself ? (char) b : next++;
            VALUES[CHARS[b]] = (short) b;
        }
    }

    private ByteChars() {}

    static String encode(String text) {
        byte[] bytes = Utf8.encode(text);
        StringBuilder out = new StringBuilder(bytes.length);
        for (byte b : bytes) {
            out.append(CHARS[b & 0xFF]);
        }
        return out.toString();
    }

    /** Appends the bytes that the letters stand for, or the token's UTF-8 if one of them stands for none. */
    static void decode(String token, Bytes out) {
        byte[] bytes = bytes(token);
        out.add(bytes == null ? Utf8.encode(token) : bytes);
    }

    /** The bytes that the letters stand for; null if one of them stands for none. */
    static byte @Nullable [] bytes(String token) {
        byte[] bytes = new byte[token.length()];
        for (int i = 0; i < bytes.length; i++) {
            char c = token.charAt(i);
            if (c >= VALUES.length || VALUES[c] < 0) {
                return null;
            }
            bytes[i] = (byte) VALUES[c];
        }
        return bytes;
    }
}
