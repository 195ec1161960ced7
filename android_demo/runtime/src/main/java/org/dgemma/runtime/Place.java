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

    /** In quotes, control characters and lone surrogates escaped, so that a message stays one line. */
    static String quoted(String text) {
        StringBuilder out = new StringBuilder("'");
        text.codePoints().forEach(c -> {
            if (Character.isISOControl(c) || c == 0x2028 || c == 0x2029 || Character.getType(c) == Character.SURROGATE) {
                out.append(String.format("\\u%04x", c));
            } else {
                out.appendCodePoint(c);
            }
        });
        return out.append('\'').toString();
    }
}
