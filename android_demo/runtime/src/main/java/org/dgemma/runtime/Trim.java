package org.dgemma.runtime;

import java.util.Arrays;
import java.util.List;

/** White space as Python's {@code str.strip} takes it away. */
final class Trim {
    /** Which ends of a text may be trimmed. */
    static final List<String> SIDES = Arrays.asList("none", "both", "start", "end");

    private static final String WHITESPACE = "\t\n\u000B\f\r\u001C\u001D\u001E\u001F \u0085\u00A0\u1680\u2000\u2001\u2002"
            + "\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200A\u2028\u2029\u202F\u205F\u3000";

    private Trim() {}

    static boolean isSpace(char c) {
        return WHITESPACE.indexOf(c) >= 0;
    }

    static String both(String text) {
        return of(text, "both");
    }

    static String of(String text, String sides) {
        int start = 0;
        int end = text.length();
        if (sides.equals("both") || sides.equals("start")) {
            while (start < end && isSpace(text.charAt(start))) {
                start++;
            }
        }
        if (sides.equals("both") || sides.equals("end")) {
            while (end > start && isSpace(text.charAt(end - 1))) {
                end--;
            }
        }
        return text.substring(start, end);
    }
}
