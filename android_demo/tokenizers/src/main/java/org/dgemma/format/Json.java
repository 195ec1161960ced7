package org.dgemma.format;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import org.jspecify.annotations.Nullable;

/**
 * JSON as the Python runtime reads and writes it.
 *
 * <p>Values are Map (in the order of the text), List, String, Long, BigInteger (beyond 64 bits), Double, Boolean and null.
 * Writing also takes any Iterable, Number and CharSequence, and int[].
 */
public final class Json {
    /** Containers inside one another at most. */
    public static final int MOST_DEPTH = 100;
    /** Values in one text at most, containers included: it bounds what a small text can take of memory. */
    public static final int MOST_VALUES = 1 << 18;
    /** Digits of an integer at most, as in CPython. */
    public static final int MOST_DIGITS = 4300;
    /** Bytes of a text at most. */
    public static final int MOST_LENGTH = 8 << 20;

    private Json() {}

    /**
     * The value of a UTF-8 text without a byte order mark, as Python's {@code json.loads} gives it: NaN, Infinity and escaped
     * lone surrogates are taken, of equal keys the last one wins.
     *
     * @throws JsonException where the text is not JSON, or exceeds the limits above
     */
    public static @Nullable Object parse(byte[] text) {
        if (text.length > MOST_LENGTH) {
            throw new JsonException("more than " + MOST_LENGTH + " bytes", -1);
        }
        JsonReader reader = new JsonReader(text);
        Object value = reader.tree();
        reader.end();
        return value;
    }

    /** The value of a text; see {@link #parse(byte[])}. A lone surrogate that is not escaped is a JsonException. */
    public static @Nullable Object parse(String text) {
        return parse(utf8(text));
    }

    /** Equals Python's {@code json.dumps(value)}, but for NaN and Infinity, which are refused. */
    public static String write(@Nullable Object value) {
        return new JsonWriter(false, true).document(value);
    }

    /** Equals Python's {@code json.dumps(value, ensure_ascii=False)}, but for NaN and Infinity, which are refused. */
    public static String text(@Nullable Object value) {
        return new JsonWriter(false, false).document(value);
    }

    /**
     * The UTF-8 bytes that digests are made of: {@code json.dumps(value, sort_keys=True, separators=(",", ":"),
     * ensure_ascii=False, allow_nan=False).encode()}. Keys are sorted by code point.
     *
     * @throws JsonException for NaN, Infinity and lone surrogates
     */
    public static byte[] canonical(@Nullable Object value) {
        return utf8(new JsonWriter(true, false).document(value));
    }

    private static byte[] utf8(String text) {
        try {
            ByteBuffer bytes = StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(text));
            byte[] exact = new byte[bytes.remaining()];
            bytes.get(exact);
            return exact;
        } catch (CharacterCodingException error) {
            throw new JsonException("a lone surrogate cannot be written as UTF-8", -1);
        }
    }

    /** The shortest decimal that reads back as {@code value}, in Python's notation: 0.1, 1e-06, 1e+16, 30.0, nan, inf. */
    public static String repr(double value) {
        return FloatRepr.of(value);
    }

    /** In quotes as Python's {@code repr} writes it, control characters and lone surrogates escaped: a message stays one line. */
    public static String repr(String text) {
        char quote = text.indexOf('\'') >= 0 && text.indexOf('"') < 0 ? '"' : '\'';
        StringBuilder out = new StringBuilder().append(quote);
        text.codePoints().forEach(c -> {
            int named = "\n\r\t\\".indexOf(c);
            if (named >= 0 || c == quote) {
                out.append('\\').append(named >= 0 ? "nrt\\".charAt(named) : quote);
            } else if (Character.isISOControl(c)) {
                out.append(String.format("\\x%02x", c));
            } else if (c == 0x2028 || c == 0x2029 || Character.getType(c) == Character.SURROGATE) {
                out.append(String.format("\\u%04x", c));
            } else {
                out.appendCodePoint(c);
            }
        });
        return out.append(quote).toString();
    }

    /** The first {@code most} characters, as {@link #repr(String)}. */
    public static String repr(String text, int most) {
        boolean fits = text.codePointCount(0, text.length()) <= most;
        return repr(fits ? text : text.substring(0, text.offsetByCodePoints(0, most)));
    }
}
