package org.dgemma.format;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Canonical: sorted keys, no spaces, text as it is. Otherwise: as given, spaces after ',' and ':'. */
final class JsonWriter {
    /** Strings compare by UTF-16 unit, Python's by code point: they differ beyond U+FFFF. */
    static final Comparator<String> BY_CODE_POINT = JsonWriter::compare;

    private final boolean canonical;
    private final boolean ascii;
    private final StringBuilder out = new StringBuilder();
    private int depth;

    JsonWriter(boolean canonical, boolean ascii) {
        this.canonical = canonical;
        this.ascii = ascii;
    }

    String document(@Nullable Object value) {
        value(value);
        return out.toString();
    }

    private void value(@Nullable Object value) {
        if (value == null || value instanceof Boolean) {
            out.append(value);
        } else if (value instanceof CharSequence) {
            string((CharSequence) value);
        } else if (value instanceof Double || value instanceof Float) {
            number(((Number) value).doubleValue());
        } else if (value instanceof Long || value instanceof Integer || value instanceof BigInteger
                || value instanceof Short || value instanceof Byte) {
            out.append(value);
        } else if (++depth > Json.MOST_DEPTH) {
            throw new JsonException("nested deeper than " + Json.MOST_DEPTH, -1);
        } else {
            container(value);
            depth--;
        }
    }

    private void container(Object value) {
        if (value instanceof Map) {
            object((Map<?, ?>) value);
        } else if (value instanceof Iterable) {
            array((Iterable<?>) value);
        } else if (value instanceof int[]) {
            List<Integer> boxed = new ArrayList<>();
            for (int element : (int[]) value) {
                boxed.add(element);
            }
            array(boxed);
        } else {
            throw new JsonException(value.getClass().getName() + " cannot be written as JSON", -1);
        }
    }

    private void object(Map<?, ?> members) {
        List<String> keys = new ArrayList<>(members.size());
        for (Object key : members.keySet()) {
            if (!(key instanceof String)) {
                throw new JsonException("a key must be a string", -1);
            }
            keys.add((String) key);
        }
        if (canonical) {
            Collections.sort(keys, BY_CODE_POINT);
        }
        String separator = "";
        out.append('{');
        for (String key : keys) {
            out.append(separator);
            string(key);
            out.append(canonical ? ":" : ": ");
            value(members.get(key));
            separator = canonical ? "," : ", ";
        }
        out.append('}');
    }

    private void array(Iterable<?> elements) {
        String separator = "";
        out.append('[');
        for (Object element : elements) {
            out.append(separator);
            value(element);
            separator = canonical ? "," : ", ";
        }
        out.append(']');
    }

    private void number(double value) {
        if (Double.isNaN(value) || Double.isInfinite(value)) {
            throw new JsonException(FloatRepr.of(value) + " cannot be written as JSON", -1);
        }
        out.append(FloatRepr.of(value));
    }

    private void string(CharSequence text) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            character(text.charAt(i));
        }
        out.append('"');
    }

    private void character(char c) {
        int named = "\"\\\b\f\n\r\t".indexOf(c);
        if (named >= 0) {
            out.append('\\').append("\"\\bfnrt".charAt(named));
        } else if (c < ' ' || ascii && c >= 127) {
            escape(c);
        } else {
            out.append(c);
        }
    }

    private void escape(char c) {
        out.append("\\u");
        for (int shift = 12; shift >= 0; shift -= 4) {
            out.append(Character.forDigit(c >> shift & 15, 16));
        }
    }

    private static int compare(String a, String b) {
        for (int i = 0; i < Math.min(a.length(), b.length()); i++) {
            char left = a.charAt(i);
            char right = b.charAt(i);
            if (left != right) {
                boolean surrogates = Character.isSurrogate(left) != Character.isSurrogate(right);
                return (surrogates ? Character.isSurrogate(right) : left < right) ? -1 : 1;
            }
        }
        return a.length() - b.length();
    }
}
