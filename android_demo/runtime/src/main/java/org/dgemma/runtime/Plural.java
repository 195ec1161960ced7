package org.dgemma.runtime;

import java.util.Locale;

/** Numbers of things in sentences. */
final class Plural {
    private Plural() {}

    /** {@code 1 token}, {@code 2,000 tokens}. */
    static String counted(int number, String noun) {
        return String.format(Locale.ROOT, "%,d %s%s", number, noun, number == 1 ? "" : "s");
    }
}
