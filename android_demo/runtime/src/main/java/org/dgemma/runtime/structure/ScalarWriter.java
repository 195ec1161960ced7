package org.dgemma.runtime.structure;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Strings and numbers of a JSON schema as regular expressions. */
final class ScalarWriter {
    private static final String INSIDE_ONLY = " may match a quote, a backslash or a control character; use classes without them, "
            + "such as [^\"\\\\\\x00-\\x1f] for a dot";

    private final Patience patience;

    ScalarWriter(Patience patience) {
        this.patience = patience;
    }

    /** Throws UsageException. */
    String string(Map<String, @Nullable Object> said, String path) {
        boolean hasPattern = said.containsKey("pattern");
        boolean hasFormat = said.containsKey("format");
        if ((hasPattern || hasFormat) && (said.containsKey("minLength") || said.containsKey("maxLength"))) {
            throw JsonValues.refused(path + " has " + (hasPattern ? "pattern" : "format")
                    + " and a length; express the length in the pattern");
        }
        if (hasPattern && hasFormat) {
            throw JsonValues.refused(path + " has pattern and format; give only one of them");
        }
        if (hasFormat) {
            Object format = said.get("format");
            String expression = format instanceof String ? JsonValues.FORMATS.get(format) : null;
            if (expression == null) {
                throw JsonValues.refused(path + "/format " + SchemaWriter.quoted(format) + " is not supported; choose from "
                        + String.join(", ", JsonValues.FORMATS.keySet()));
            }
            return "\"(?:" + expression + ")\"";
        }
        if (hasPattern) {
            Object pattern = said.get("pattern");
            String expression = JsonValues.pattern(pattern instanceof String ? (String) pattern : "", path);
            if (!staysInside(expression)) {
                throw JsonValues.refused(path + "/pattern " + SchemaWriter.quoted(pattern) + INSIDE_ONLY);
            }
            return "\"" + expression + "\"";
        }
        Integer least = count(said, "minLength", path);
        Integer high = count(said, "maxLength", path);
        int low = least == null ? 0 : least;
        if (high != null && high < low) {
            throw JsonValues.refused(path + " has minLength above maxLength; no string fits both");
        }
        return "\"" + JsonValues.CHARACTER + JsonValues.times(low, high) + "\"";
    }

    /** Whether an expression matches nothing that JSON has to escape. */
    private boolean staysInside(String expression) {
        ByteAutomaton automaton = ByteAutomaton.compiled(expression, "jsonSchema pattern", patience);
        boolean leaves = automaton.takes('"') || automaton.takes('\\');
        for (int control = 0; control < 0x20; control++) {
            leaves |= automaton.takes(control);
        }
        return !leaves;
    }

    /** @param type integer or number. Throws UsageException. */
    String number(String type, Map<String, @Nullable Object> said, String path) {
        Long low = bound(said, "minimum", path);
        Long high = bound(said, "maximum", path);
        Long above = bound(said, "exclusiveMinimum", path);
        Long below = bound(said, "exclusiveMaximum", path);
        if (low != null && above != null || high != null && below != null) {
            throw JsonValues.refused(path + " has a bound and its exclusive form; give only one of them");
        }
        if (type.equals("integer")) {
            return JsonValues.integer(above == null ? low : Long.valueOf(above + 1),
                    below == null ? high : Long.valueOf(below - 1), path);
        }
        return JsonValues.number(above == null ? low : above, below == null ? high : below, above != null, below != null, path);
    }

    private static @Nullable Long bound(Map<String, @Nullable Object> said, String key, String path) {
        Object value = said.get(key);
        if (value == null) {
            return null;
        }
        if (!(value instanceof Number) || !isWhole((Number) value)) {
            throw JsonValues.refused(path + "/" + key + " " + SchemaWriter.shown(value) + " must be a whole number");
        }
        BigInteger whole = new BigDecimal(value.toString()).toBigInteger();
        if (whole.bitLength() > 62) {
            throw JsonValues.refused(
                    path + " has a bound of more than " + JsonValues.MOST_DIGITS + " digits; leave it out");
        }
        return whole.longValue();
    }

    static boolean isWhole(Number value) {
        return !(value instanceof Double) || Math.rint((Double) value) == (Double) value;
    }

    /** A number of characters or items; null where it is not given. */
    static @Nullable Integer count(Map<String, @Nullable Object> said, String key, String path) {
        Object value = said.get(key);
        if (value == null) {
            return null;
        }
        if (!(value instanceof Long) || (Long) value < 0 || (Long) value > ByteAutomaton.MOST_STATES) {
            throw JsonValues.refused(path + "/" + key + " " + SchemaWriter.shown(value) + " must be an integer from 0 to "
                    + ByteAutomaton.MOST_STATES);
        }
        return ((Long) value).intValue();
    }
}
