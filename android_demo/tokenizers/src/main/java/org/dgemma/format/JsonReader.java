package org.dgemma.format;

import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Walks through one JSON text, as UTF-8, from front to back.
 *
 * <p>Either {@link #tree} makes a tree of a value, within the limits of {@link Json}, or the caller takes the value apart
 * ({@link #open}, {@link #more}, {@link #key}, {@link #bytes}, {@link #number}), which makes no object a value: a {@code
 * tokenizer.json} has up to a million strings. Either way the text is held to the same grammar, and what breaks it is a
 * JsonException that names the byte.
 */
public final class JsonReader {
    private static final int LONG_DIGITS = 18; // any integer of so many digits fits a long

    private final byte[] text;
    private int at;
    private int depth;
    private int values;

    private final CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder();
    private CharBuffer units = CharBuffer.allocate(64);

    // The string that bytes() read last: in the text itself, or here where it has escapes.
    private byte[] unescaped = new byte[64];
    private byte[] held;
    private int from;
    private int to;

    public JsonReader(byte[] text) {
        this.text = text;
        this.held = text;
    }

    /** Bytes of the text that have been read. */
    public int position() {
        return at;
    }

    /** First byte of the next value, or of what stands in its place. */
    public char peek() {
        skipSpace();
        return current();
    }

    /** Reads a bracket, or another mark. */
    public void open(char mark) {
        if (peek() != mark) {
            throw wrong("'" + mark + "' is missing");
        }
        at++;
    }

    /** Moves to the next member or element, whose `first` is true; false, and behind the container, at its end. */
    public boolean more(char bracket, boolean first) {
        if (peek() == bracket) {
            at++;
            return false;
        }
        if (!first) {
            if (current() != ',') {
                throw wrong("',' or '" + bracket + "' is missing");
            }
            at++;
            skipSpace();
        }
        return true;
    }

    /** Reads a key and its colon. */
    public String key() {
        if (peek() != '"') {
            throw wrong("a key in quotes is missing");
        }
        String key = string();
        open(':');
        return key;
    }

    /** Reads a string, which may hold lone surrogates, as in Python. */
    public String string() {
        open('"');
        int start = at;
        String piece = piece(start, plain());
        if (text[at++] == '"') {
            return piece;
        }
        StringBuilder read = new StringBuilder(piece);
        do {
            read.append(escape());
            start = at;
            read.append(piece(start, plain()));
        } while (text[at++] == '\\');
        return read.toString();
    }

    /** Reads a string as UTF-8: bytes {@link #from} to {@link #to} of {@link #held}, until the next one is read. */
    public void bytes() {
        open('"');
        from = at;
        to = validated();
        if (text[at++] == '"') {
            held = text;
            return;
        }
        int start = from;
        from = 0;
        to = 0;
        keep(text, start, at - 1);
        do {
            byte[] character = escapedCharacter();
            keep(character, 0, character.length);
            start = at;
            keep(text, start, validated());
        } while (text[at++] == '\\');
        held = unescaped;
    }

    /** What holds the string that {@link #bytes} read last. */
    public byte[] held() {
        return held;
    }

    /** Its first byte. */
    public int from() {
        return from;
    }

    /** Behind its last byte. */
    public int to() {
        return to;
    }

    /** Reads a number: Long, BigInteger beyond 64 bits, or Double. */
    public Number number() {
        skipSpace();
        int start = at;
        if (current() == '-') {
            at++;
        }
        int first = at;
        if (current() == '0') {
            at++;
        } else if (digits() == 0) {
            at = start;
            throw wrong("no value");
        }
        int whole = at;
        fraction();
        exponent();
        String read = new String(text, start, at - start, StandardCharsets.US_ASCII);
        if (at > whole) {
            return Double.parseDouble(read);
        }
        if (whole - first > Json.MOST_DIGITS) {
            throw wrong("an integer of more than " + Json.MOST_DIGITS + " digits");
        }
        if (whole - first <= LONG_DIGITS) {
            return Long.parseLong(read);
        }
        BigInteger large = new BigInteger(read);
        if (large.bitLength() < Long.SIZE) {
            return large.longValue();
        }
        return large;
    }

    /** Reads an integer from 0 to 2³¹ − 1. */
    public int natural() {
        Number value = number();
        if (!(value instanceof Long) || value.longValue() < 0 || value.longValue() > Integer.MAX_VALUE) {
            throw wrong("no number from 0 to 2147483647");
        }
        return value.intValue();
    }

    /** Reads a value as a tree, within the limits of {@link Json} on depth and number of values. */
    public @Nullable Object tree() {
        depth = 0;
        values = 0;
        return value();
    }

    /** Nothing but white space may follow. */
    public void end() {
        skipSpace();
        if (at < text.length) {
            throw wrong("more after the end of the value");
        }
    }

    private @Nullable Object value() {
        if (++values > Json.MOST_VALUES) {
            throw wrong("more than " + Json.MOST_VALUES + " values");
        }
        char c = peek();
        switch (c) {
            case '{':
            case '[':
                if (++depth > Json.MOST_DEPTH) {
                    throw wrong("nested deeper than " + Json.MOST_DEPTH);
                }
                at++;
                Object container = c == '{' ? object() : array();
                depth--;
                return container;
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            case 'N':
                return word("NaN", Double.NaN);
            case 'I':
                return word("Infinity", Double.POSITIVE_INFINITY);
            default:
                boolean infinite = c == '-' && at + 1 < text.length && text[at + 1] == 'I';
                return infinite ? word("-Infinity", Double.NEGATIVE_INFINITY) : number();
        }
    }

    private Map<String, @Nullable Object> object() {
        Map<String, @Nullable Object> members = Collections.emptyMap();
        for (boolean first = true; more('}', first); first = false) {
            if (first) {
                members = new LinkedHashMap<>(4);
            }
            members.put(key(), value());
        }
        return members;
    }

    private List<@Nullable Object> array() {
        List<@Nullable Object> elements = Collections.emptyList();
        for (boolean first = true; more(']', first); first = false) {
            if (first) {
                elements = new ArrayList<>(2);
            }
            elements.add(value());
        }
        return elements;
    }

    private @Nullable Object word(String word, @Nullable Object meaning) {
        for (int i = 0; i < word.length(); i++) {
            if (at + i >= text.length || text[at + i] != word.charAt(i)) {
                throw wrong("no value");
            }
        }
        at += word.length();
        return meaning;
    }

    /** Moves to the next quote or backslash of a string; false where there was more than ASCII. */
    private boolean plain() {
        int all = 0;
        while (at < text.length && text[at] != '"' && text[at] != '\\') {
            if (text[at] >= 0 && text[at] < ' ') {
                throw wrong("a control character in a string");
            }
            all |= text[at++];
        }
        current();
        return all >= 0;
    }

    private String piece(int start, boolean ascii) {
        return ascii ? new String(text, start, at - start, StandardCharsets.US_ASCII) : decoded(start).toString();
    }

    /** Moves to the next quote or backslash, over valid UTF-8, and returns where it is. */
    private int validated() {
        int start = at;
        if (!plain()) {
            decoded(start);
        }
        return at;
    }

    private CharBuffer decoded(int start) {
        if (units.capacity() < at - start) {
            units = CharBuffer.allocate(at - start);
        }
        units.clear();
        if (decoder.reset().decode(ByteBuffer.wrap(text, start, at - start), units, true).isError()) {
            at = start;
            throw wrong("not UTF-8");
        }
        units.flip();
        return units;
    }

    /** One UTF-16 unit. */
    private char escape() {
        int index = "\"\\/bfnrtu".indexOf(current());
        if (index < 0) {
            throw wrong("an unknown escape");
        }
        at++;
        return index < 8 ? "\"\\/\b\f\n\r\t".charAt(index) : hex();
    }

    /** UTF-8 of one escape, or of two that are a pair of surrogates. */
    private byte[] escapedCharacter() {
        char[] units = {escape()};
        if (Character.isHighSurrogate(units[0]) && current() == '\\') {
            at++;
            units = new char[] {units[0], escape()};
        }
        int character = Character.codePointAt(units, 0);
        if (Character.charCount(character) < units.length || Character.isSurrogate(units[0]) && units.length == 1) {
            throw wrong("a lone surrogate cannot be written as UTF-8");
        }
        return new String(units).getBytes(StandardCharsets.UTF_8);
    }

    private char hex() {
        int unit = 0;
        for (int i = 0; i < 4; i++, at++) {
            int digit = current() < 128 ? Character.digit(current(), 16) : -1;
            if (digit < 0) {
                throw wrong("an escape without four hexadecimal digits");
            }
            unit = unit << 4 | digit;
        }
        return (char) unit;
    }

    private void keep(byte[] source, int start, int end) {
        if (unescaped.length - to < end - start) {
            unescaped = Arrays.copyOf(unescaped, Math.max(2 * unescaped.length, to + end - start));
        }
        System.arraycopy(source, start, unescaped, to, end - start);
        to += end - start;
    }

    /** Moves over a fraction, if there is a whole one; what follows a lone point is for the caller to refuse. */
    private void fraction() {
        int before = at;
        if (at < text.length && text[at] == '.') {
            at++;
            if (digits() == 0) {
                at = before;
            }
        }
    }

    private void exponent() {
        int before = at;
        if (at < text.length && (text[at] | 32) == 'e') {
            at++;
            if (at < text.length && (text[at] == '+' || text[at] == '-')) {
                at++;
            }
            if (digits() == 0) {
                at = before;
            }
        }
    }

    private int digits() {
        int start = at;
        while (at < text.length && text[at] >= '0' && text[at] <= '9') {
            at++;
        }
        return at - start;
    }

    private void skipSpace() {
        while (at < text.length && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' || text[at] == '\r')) {
            at++;
        }
    }

    /** The byte here, 128 and above where it is part of a character beyond ASCII. */
    private char current() {
        if (at >= text.length) {
            throw wrong("the text ends too early");
        }
        return (char) (text[at] & 0xFF);
    }

    private JsonException wrong(String what) {
        return new JsonException(what, at);
    }
}
