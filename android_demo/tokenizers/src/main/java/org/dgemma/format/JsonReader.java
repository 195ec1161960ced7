package org.dgemma.format;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** One pass over one text, by recursive descent; depth is bounded, so the stack is too. */
final class JsonReader {
    private static final int LONG_DIGITS = 18; // any integer of so many digits fits a long

    private final String text;
    private int at;
    private int depth;
    private int values;

    JsonReader(String text) {
        if (text.length() > Json.MOST_LENGTH) {
            throw new JsonException("more than " + Json.MOST_LENGTH + " characters", -1);
        }
        this.text = text;
    }

    @Nullable Object document() {
        Object value = value();
        skipSpace();
        if (at < text.length()) {
            throw wrong("more after the end of the value");
        }
        return value;
    }

    private @Nullable Object value() {
        skipSpace();
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
                at++;
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
                return text.startsWith("-I", at) ? word("-Infinity", Double.NEGATIVE_INFINITY) : number();
        }
    }

    private Map<String, @Nullable Object> object() {
        if (closes('}')) {
            return Collections.emptyMap();
        }
        Map<String, @Nullable Object> members = new LinkedHashMap<>(4);
        do {
            skipSpace();
            expect('"', "a key in quotes");
            String key = string();
            skipSpace();
            expect(':', "':'");
            members.put(key, value());
        } while (continues('}'));
        return members;
    }

    private List<@Nullable Object> array() {
        if (closes(']')) {
            return Collections.emptyList();
        }
        List<@Nullable Object> elements = new ArrayList<>(2);
        do {
            elements.add(value());
        } while (continues(']'));
        return elements;
    }

    private boolean closes(char end) {
        skipSpace();
        if (peek() != end) {
            return false;
        }
        at++;
        return true;
    }

    private boolean continues(char end) {
        if (closes(end)) {
            return false;
        }
        expect(',', "',' or '" + end + "'");
        return true;
    }

    private String string() {
        int start = at;
        while (at < text.length() && text.charAt(at) != '"' && text.charAt(at) != '\\' && text.charAt(at) >= ' ') {
            at++;
        }
        if (peek() == '"') {
            return text.substring(start, at++);
        }
        StringBuilder read = new StringBuilder().append(text, start, at);
        while (peek() != '"') {
            char c = text.charAt(at++);
            if (c < ' ') {
                at--;
                throw wrong("a control character in a string");
            }
            read.append(c == '\\' ? escape() : c);
        }
        at++;
        return read.toString();
    }

    private char escape() {
        char c = peek();
        at++;
        switch (c) {
            case '"':
            case '\\':
            case '/':
                return c;
            case 'b':
                return '\b';
            case 'f':
                return '\f';
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 't':
                return '\t';
            case 'u':
                return hex();
            default:
                at--;
                throw wrong("an unknown escape");
        }
    }

    private char hex() {
        int unit = 0;
        for (int i = 0; i < 4; i++, at++) {
            char c = peek();
            int digit = c < 128 ? Character.digit(c, 16) : -1;
            if (digit < 0) {
                throw wrong("an escape without four hexadecimal digits");
            }
            unit = unit << 4 | digit;
        }
        return (char) unit;
    }

    private Number number() {
        int start = at;
        if (peek() == '-') {
            at++;
        }
        int first = at;
        if (peek() == '0') {
            at++;
        } else if (digits() == 0) {
            at = start;
            throw wrong("no value");
        }
        int whole = at;
        fraction();
        exponent();
        if (at > whole) {
            return Double.parseDouble(text.substring(start, at));
        }
        if (whole - first > Json.MOST_DIGITS) {
            throw wrong("an integer of more than " + Json.MOST_DIGITS + " digits");
        }
        String digits = text.substring(start, at);
        if (whole - first <= LONG_DIGITS) {
            return Long.parseLong(digits);
        }
        BigInteger large = new BigInteger(digits);
        if (large.bitLength() < Long.SIZE) {
            return large.longValue();
        }
        return large;
    }

    /** Moves over a fraction, if there is a whole one; what follows a lone point is for the caller to refuse. */
    private void fraction() {
        int before = at;
        if (at < text.length() && text.charAt(at) == '.') {
            at++;
            if (digits() == 0) {
                at = before;
            }
        }
    }

    private void exponent() {
        int before = at;
        if (at < text.length() && (text.charAt(at) | 32) == 'e') {
            at++;
            if (at < text.length() && (text.charAt(at) == '+' || text.charAt(at) == '-')) {
                at++;
            }
            if (digits() == 0) {
                at = before;
            }
        }
    }

    private int digits() {
        int start = at;
        while (at < text.length() && text.charAt(at) >= '0' && text.charAt(at) <= '9') {
            at++;
        }
        return at - start;
    }

    private @Nullable Object word(String word, @Nullable Object meaning) {
        if (!text.startsWith(word, at)) {
            throw wrong("no value");
        }
        at += word.length();
        return meaning;
    }

    private void skipSpace() {
        while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private char peek() {
        if (at >= text.length()) {
            throw wrong("the text ends too early");
        }
        return text.charAt(at);
    }

    private void expect(char c, String what) {
        if (peek() != c) {
            throw wrong(what + " is missing");
        }
        at++;
    }

    private JsonException wrong(String what) {
        return new JsonException(what, at);
    }
}
