package org.dgemma.tokenizer;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.jspecify.annotations.Nullable;

/**
 * Walks through JSON without building a tree. A `tokenizer.json` has up to a million strings; as objects they would
 * fill the heap of a phone, and {@link Json}, which reads its small parts, refuses so many.
 */
final class JsonPull {
    private final byte[] json;
    private int at;
    private final Bytes read = new Bytes(64);

    JsonPull(byte[] json) {
        this.json = json;
    }

    /** First byte of the next value, '}' or ']' at the end of a container. */
    int peek() {
        while (at < json.length && (json[at] == ' ' || json[at] == '\n' || json[at] == '\t' || json[at] == '\r')) {
            at++;
        }
        if (at >= json.length) {
            throw wrong();
        }
        return json[at];
    }

    void open(char bracket) {
        if (peek() != bracket) {
            throw wrong();
        }
        at++;
    }

    /** Moves to the next member or element, whose `first` is true; false, and behind the container, at its end. */
    boolean more(char bracket, boolean first) {
        int c = peek();
        if (c == bracket) {
            at++;
            return false;
        }
        if (!first) {
            open(',');
            peek();
        }
        return true;
    }

    /** Reads a key and its colon. */
    String key() {
        String key = string();
        open(':');
        return key;
    }

    String string() {
        stringBytes();
        return Utf8.lossy(read.values, 0, read.size);
    }

    /** Reads a string as UTF-8; the buffer is reused by the next call. */
    Bytes stringBytes() {
        open('"');
        read.size = 0;
        while (true) {
            int start = at;
            while (at < json.length && json[at] != '"' && json[at] != '\\') {
                if (json[at] >= 0 && json[at] < ' ') {
                    throw wrong();
                }
                at++;
            }
            if (at >= json.length || !Utf8.isValid(json, start, at)) {
                throw wrong();
            }
            read.add(json, start, at);
            if (json[at++] == '"') {
                return read;
            }
            escape();
        }
    }

    void colon() {
        open(':');
    }

    double number() {
        try {
            return Double.parseDouble(new String(slice(), StandardCharsets.US_ASCII));
        } catch (NumberFormatException error) {
            throw wrong();
        }
    }

    /** A number from 0 to 2³¹ − 1. */
    int natural() {
        double value = number();
        if (value < 0 || value > Integer.MAX_VALUE || value != Math.rint(value)) {
            throw wrong();
        }
        return (int) value;
    }

    /** Reads a small value as a tree. */
    @Nullable Object tree() {
        try {
            return Json.parse(slice());
        } catch (JsonException error) {
            throw wrong();
        }
    }

    void end() {
        while (at < json.length) {
            int c = json[at++];
            if (c != ' ' && c != '\n' && c != '\t' && c != '\r') {
                throw wrong();
            }
        }
    }

    /** Bytes of the next value, whose brackets are balanced; what stands between them is not checked. */
    byte[] slice() {
        peek();
        int start = at;
        skip();
        return Arrays.copyOfRange(json, start, at);
    }

    void skip() {
        int depth = 0;
        do {
            int c = peek();
            if (c == '"') {
                stringBytes();
            } else if (c == '{' || c == '[') {
                at++;
                depth++;
            } else if (c == '}' || c == ']') {
                at++;
                depth--;
            } else if (depth > 0 && (c == ',' || c == ':')) {
                at++;
            } else {
                word();
            }
        } while (depth > 0);
        if (depth < 0) {
            throw wrong();
        }
    }

    private void word() {
        int start = at;
        while (at < json.length && "{}[],:\" \n\t\r".indexOf(json[at]) < 0) {
            at++;
        }
        if (at == start) {
            throw wrong();
        }
    }

    private void escape() {
        int index = at < json.length ? "\"\\/bfnrtu".indexOf(json[at++]) : -1;
        if (index < 0) {
            throw wrong();
        }
        if (index < 8) {
            read.add("\"\\/\b\f\n\r\t".charAt(index));
            return;
        }
        int c = hex();
        if (Character.isHighSurrogate((char) c) && at + 1 < json.length && json[at] == '\\' && json[at + 1] == 'u') {
            at += 2;
            int low = hex();
            if (!Character.isLowSurrogate((char) low)) {
                throw wrong();
            }
            c = Character.toCodePoint((char) c, (char) low);
        } else if (Character.isSurrogate((char) c)) {
            throw wrong();
        }
        read.addCodePoint(c);
    }

    private int hex() {
        int value = 0;
        for (int i = 0; i < 4; i++) {
            int digit = at < json.length && json[at] > 0 ? Character.digit((char) json[at++], 16) : -1;
            if (digit < 0) {
                throw wrong();
            }
            value = value << 4 | digit;
        }
        return value;
    }

    TokenizerException wrong() {
        return new TokenizerException("it is not a tokenizer.json, or is damaged at byte " + at);
    }
}
