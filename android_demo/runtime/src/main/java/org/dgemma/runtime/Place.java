package org.dgemma.runtime;

/** Where in a manifest a value stands, for the errors that name it. */
final class Place {
    private final String file;
    private final String path;

    Place(String file) {
        this(file, "");
    }

    private Place(String file, String path) {
        this.file = file;
        this.path = path;
    }

    Place at(Object key) {
        return new Place(file, path.isEmpty() ? key.toString() : path + "." + key);
    }

    BundleException mustBe(String what) {
        return wrong(quoted(path) + " must be " + what);
    }

    BundleException missing(String key) {
        return wrong("no key " + quoted(at(key).path));
    }

    BundleException wrong(String what) {
        return new BundleException(
                file + ": a value is missing or has the wrong type (" + what + "); export the bundle again");
    }

    BundleException unknown(String key) {
        return new BundleException(
                file + ": unknown key " + quoted(key) + "; this bundle was written by a newer dgemma, or edited");
    }

    /** In quotes as Python's {@code repr} writes it, control characters and lone surrogates escaped: a message stays one line. */
    static String quoted(String text) {
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

    /** The first {@code most} characters, {@link #quoted}. */
    static String quoted(String text, int most) {
        boolean fits = text.codePointCount(0, text.length()) <= most;
        return quoted(fits ? text : text.substring(0, text.offsetByCodePoints(0, most)));
    }
}
