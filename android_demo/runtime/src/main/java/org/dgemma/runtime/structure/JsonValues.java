package org.dgemma.runtime.structure;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/**
 * Regular expressions of JSON's scalar values: strings of a length, a format or a pattern, and numbers in bounds. Each matches
 * only valid values, but perhaps not all of them: no &#92;u escapes, years of four digits, email addresses of plain letters.
 * They are those of Python's runtime, letter by letter.
 */
final class JsonValues {
    static final String CHARACTER = "(?:[^\"\\\\\\x00-\\x1f\\x7f]|\\\\[\"\\\\/bfnrt])";
    /** By name, in the order in which errors list them. */
    static final Map<String, String> FORMATS = new LinkedHashMap<>();
    /** Digits of a bound at most: those that a double keeps. */
    static final int MOST_DIGITS = 15;
    private static final String INTEGER = "(?:-?(?:0|[1-9][0-9]*))";
    private static final String EXPONENT = "(?:[eE][+-]?[0-9]{1,2})?";
    private static final String PLANE = "\\x{100000}-\\x{10ffff}"; // which no pattern matches in Python either

    static {
        String day = "(?:0[1-9]|1[0-9]|2[0-8])";
        String leap = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)";
        String date = "(?:[1-9][0-9]{3}-(?:(?:0[1-9]|1[0-2])-" + day + "|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)|"
                + leap + "-02-29)";
        String time = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
        String part = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
        String host = "(?:[a-z0-9]+(?:-[a-z0-9]+)*\\.)+[a-z]{2,}";
        FORMATS.put("date", date);
        FORMATS.put("time", time);
        FORMATS.put("date-time", date + "T" + time);
        FORMATS.put("uuid", "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}");
        FORMATS.put("email", "[A-Za-z0-9]+(?:[._+-][A-Za-z0-9]+)*@" + host);
        FORMATS.put("ipv4", part + "(?:\\." + part + "){3}");
        FORMATS.put("uri", "https?://" + host + "(?::[1-9][0-9]{0,3})?(?:/[A-Za-z0-9._~-]+)*/?");
    }

    private JsonValues() {}

    /** What is wrong with a schema, and where in it. */
    static UsageException refused(String said) {
        return new UsageException("jsonSchema " + said.trim().replaceAll("\\s+", " "));
    }

    /** An expression of one text. */
    static String literal(String text) {
        return text.replaceAll("[\\\\.+*?()|\\[\\]{}^$#&\\-~]", "\\\\$0");
    }

    /** Low to high repetitions of what stands before. */
    static String times(int low, @Nullable Integer high) {
        return high == null && low == 0 ? "*" : "{" + low + "," + (high == null ? "" : high) + "}";
    }

    /**
     * What matches an ECMA expression with ^ before and $ behind it. Throws UsageException for what means something else in
     * Rust's syntax; whether it stays within a JSON string is the caller's to check.
     */
    static String pattern(String expression, String path) {
        if (!(expression.startsWith("^") && expression.endsWith("$")) || expression.endsWith("\\$")) {
            throw refused(path + "/pattern " + Json.repr(expression, 60)
                    + " must begin with ^ and end with $, so that it covers the whole string");
        }
        String body = expression.length() < 2 ? "" : expression.substring(1, expression.length() - 1);
        StringBuilder made = new StringBuilder();
        boolean inClass = false;
        for (int i = 0; i < body.length(); ) {
            String part = body.substring(i, Math.min(body.length(), i + (body.charAt(i) == '\\' ? 2 : 1)));
            i += part.length();
            String next = body.substring(i, Math.min(i + 1, body.length()));
            if (part.length() == 2) {
                made.append(escaped(part, expression, path));
            } else if (inClass && (part.equals("[") || "&~-".contains(part) && next.equals(part))) {
                throw unsupported(part + " inside a class", expression, path);
            } else if (!inClass && part.equals("(") && next.equals("?") && !body.startsWith("?:", i)) {
                throw unsupported(body.substring(i - 1, Math.min(i + 2, body.length())), expression, path);
            } else if (!inClass && "^$".contains(part)) {
                throw unsupported(part + " inside", expression, path);
            } else {
                boolean opens = !inClass && part.equals("[");
                inClass = opens || inClass && !part.equals("]");
                if (opens && next.equals("^")) {
                    part = "[^" + PLANE;
                    i++;
                }
                made.append(part.equals(".") && !inClass ? "[^\\n" + PLANE + "]" : part);
            }
        }
        return "(?:" + made + ")";
    }

    private static String escaped(String part, String expression, String path) {
        switch (part.charAt(1)) {
            case 'd':
                return "[0-9]";
            case 'w':
                return "[0-9A-Za-z_]";
            case 's':
                return "[ \\t\\n\\r]";
            default:
                if (Character.isLetterOrDigit(part.charAt(1))) {
                    throw unsupported(part, expression, path);
                }
                return part;
        }
    }

    private static UsageException unsupported(String what, String expression, String path) {
        return refused(path + "/pattern " + Json.repr(expression, 60) + " has " + what
                + ", which is not supported; write it in other words");
    }

    /** An integer from low to high, neither of which need be. */
    static String integer(@Nullable Long low, @Nullable Long high, String path) {
        if (low == null && high == null) {
            return INTEGER;
        }
        if (low != null && high != null && low > high) {
            throw refused(path + " has a minimum above its maximum; no number fits both");
        }
        if (isLong(low) || isLong(high)) {
            throw refused(path + " has a bound of more than " + MOST_DIGITS + " digits; leave it out");
        }
        List<String> parts = new ArrayList<>();
        if (low == null || low < 0) {
            parts.add("-" + magnitudes(high == null || high >= 0 ? 1 : -high, low == null ? null : -low));
        }
        if (high == null || high >= 0) {
            parts.add(magnitudes(low == null ? 0 : Math.max(0, low), high));
        }
        return "(?:" + String.join("|", parts) + ")";
    }

    private static boolean isLong(@Nullable Long bound) {
        return bound != null && String.valueOf(Math.abs(bound)).length() > MOST_DIGITS;
    }

    /**
     * A number from low to high, both whole and 0 or more, or without them.
     *
     * @param above whether low itself is too low
     * @param below whether high itself is too high
     */
    static String number(@Nullable Long low, @Nullable Long high, boolean above, boolean below, String path) {
        String notNegative = "(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?" + EXPONENT;
        if (low == null && high == null) {
            return "(?:-?" + notNegative + ")";
        }
        if (low == null || low < 0 || high != null && high <= low) {
            throw refused(path + ": a number can have a minimum of 0 or more, and a maximum above it; leave other bounds out");
        }
        if (isLong(low) || isLong(high)) {
            throw refused(path + " has a bound of more than " + MOST_DIGITS + " digits; leave it out");
        }
        String more = low + "\\.0*[1-9][0-9]*"; // more than low, less than low + 1
        List<String> parts = new ArrayList<>();
        if (high == null) {
            if (low == 0 && !above) {
                return "(?:" + notNegative + ")";
            }
            parts.add(magnitudes(low + 1, null) + "(?:\\.[0-9]+)?");
            parts.add(more);
        } else {
            if (high - low > 1) {
                parts.add(magnitudes(low + 1, high - 1) + "(?:\\.[0-9]+)?");
            }
            parts.add(more);
            if (!below) {
                parts.add(high + "(?:\\.0+)?");
            }
        }
        if (!above) {
            parts.add(low + "(?:\\.0+)?");
        }
        return "(?:" + String.join("|", parts) + ")";
    }

    /** Digits of the integers from low to high, both 0 or more. */
    private static String magnitudes(long low, @Nullable Long high) {
        if (high == null) {
            int digits = String.valueOf(low).length();
            return "(?:" + magnitudes(low, power(digits) - 1) + "|[1-9][0-9]{" + digits + ",})";
        }
        List<String> parts = new ArrayList<>();
        for (long start = low; start <= high; ) { // runs of integers that share all but their last digits
            int width = 0;
            while (start % power(width + 1) == 0 && start + power(width + 1) - 1 <= high && start >= power(width + 1)) {
                width++;
            }
            long head = start / power(width) / 10;
            long unit = start / power(width) % 10;
            long last = Math.min(9, (high + 1 - start) / power(width) + unit - 1);
            String digit = unit == last ? String.valueOf(unit) : "[" + unit + "-" + last + "]";
            parts.add((head == 0 ? "" : head) + digit + (width > 0 ? "[0-9]{" + width + "}" : ""));
            start += (last - unit + 1) * power(width);
        }
        return "(?:" + String.join("|", parts) + ")";
    }

    private static long power(int digits) {
        long found = 1;
        for (int i = 0; i < digits; i++) {
            found *= 10;
        }
        return found;
    }
}
