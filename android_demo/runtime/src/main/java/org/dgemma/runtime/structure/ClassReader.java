package org.dgemma.runtime.structure;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/** Reads what stands for one character in a regular expression: itself, an escape, a dot or a class. */
final class ClassReader {
    private static final String ESCAPES = "aftnrv";
    private static final String ESCAPED = "\u0007\f\t\n\r\u000B";
    /** Of POSIX, of ASCII alone. */
    private static final Map<String, int[]> NAMED = new HashMap<>();

    static {
        NAMED.put("alnum", CodePoints.of('0', '9', 'A', 'Z', 'a', 'z'));
        NAMED.put("alpha", CodePoints.of('A', 'Z', 'a', 'z'));
        NAMED.put("ascii", CodePoints.of(0, 0x7F));
        NAMED.put("blank", CodePoints.of('\t', '\t', ' ', ' '));
        NAMED.put("cntrl", CodePoints.of(0, 0x1F, 0x7F, 0x7F));
        NAMED.put("digit", CodePoints.of('0', '9'));
        NAMED.put("graph", CodePoints.of('!', '~'));
        NAMED.put("lower", CodePoints.of('a', 'z'));
        NAMED.put("print", CodePoints.of(' ', '~'));
        NAMED.put("punct", CodePoints.of('!', '/', ':', '@', '[', '`', '{', '~'));
        NAMED.put("space", CodePoints.of('\t', '\r', ' ', ' '));
        NAMED.put("upper", CodePoints.of('A', 'Z'));
        NAMED.put("word", CodePoints.of('0', '9', 'A', 'Z', '_', '_', 'a', 'z'));
        NAMED.put("xdigit", CodePoints.of('0', '9', 'A', 'F', 'a', 'f'));
    }

    private final RegexReader in;

    private ClassReader(RegexReader in) {
        this.in = in;
    }

    /** The set of what begins with a character that was taken. Throws UsageException. */
    static int[] read(RegexReader in, int first) {
        ClassReader reader = new ClassReader(in);
        switch (first) {
            case '.':
                return CodePoints.without(CodePoints.of('\n', '\n'));
            case '^':
            case '$':
                throw in.anchored(false);
            case '[':
                return reader.set();
            case '\\':
                return reader.escape(false);
            default:
                return reader.one(first);
        }
    }

    private int[] one(int character) {
        if (character >= 0xD800 && character <= 0xDFFF) {
            throw in.wrong();
        }
        return CodePoints.of(character, character);
    }

    /** A class, behind its bracket. */
    private int[] set() {
        boolean others = in.takes("^");
        IntStack found = new IntStack(16);
        while (in.takes("-")) {
            add(found, one('-'));
        }
        if (found.size == 0 && in.takes("]")) {
            add(found, one(']')); // which begins no range either
        }
        while (!in.takes("]")) {
            add(found, item());
        }
        int[] set = CodePoints.of(found.toArray());
        return others ? CodePoints.without(set) : set;
    }

    private static void add(IntStack to, int[] set) {
        for (int end : set) {
            to.push(end);
        }
    }

    /** A character, a range, or a class by name or escape. */
    private int[] item() {
        int[] named = named();
        if (named.length > 0) {
            return named;
        }
        for (String operation : Arrays.asList("&&", "--", "~~")) {
            if (in.takes(operation)) {
                throw in.unsupported(operation + " inside a class");
            }
        }
        if (in.peek() == '[') {
            throw in.unsupported("[ inside a class, where it begins another one unless it is escaped");
        }
        int[] from = character();
        if (in.peek() != '-' || in.peek(1) == ']' || in.peek(1) == '-') {
            return from;
        }
        in.take();
        int[] to = character();
        boolean single = from.length == 2 && from[0] == from[1] && to.length == 2 && to[0] == to[1];
        if (!single || to[0] < from[0]) {
            throw in.wrong();
        }
        return CodePoints.of(from[0], to[0]);
    }

    private int[] character() {
        if (in.ended()) {
            throw in.unbalanced();
        }
        int next = in.take();
        return next == '\\' ? escape(true) : one(next);
    }

    /** A class such as [:alpha:]; empty where none comes next. */
    private int[] named() {
        for (Map.Entry<String, int[]> each : NAMED.entrySet()) {
            if (in.takes("[:" + each.getKey() + ":]")) {
                return each.getValue();
            }
            if (in.takes("[:^" + each.getKey() + ":]")) {
                return CodePoints.without(each.getValue());
            }
        }
        return new int[0];
    }

    /** What stands behind a backslash. */
    private int[] escape(boolean inClass) {
        int next = in.take();
        int special = ESCAPES.indexOf(next);
        if (special >= 0) {
            return one(ESCAPED.charAt(special));
        }
        switch (next) {
            case 'd':
            case 's':
            case 'w':
                return PerlClasses.of(next);
            case 'D':
            case 'S':
            case 'W':
                return CodePoints.without(PerlClasses.of(Character.toLowerCase(next)));
            case 'x':
                return one(hexadecimal(2));
            case 'u':
                return one(hexadecimal(4));
            case 'U':
                return one(hexadecimal(8));
            case 'p':
            case 'P':
                throw in.unsupported("the Unicode class \\" + (char) next);
            case 'A':
            case 'z':
            case 'b':
            case 'B':
            case '<':
            case '>':
                throw inClass ? in.wrong() : in.anchored(next != 'A' && next != 'z');
            default:
                boolean alphanumeric = next >= '0' && next <= '9' || next >= 'A' && next <= 'Z' || next >= 'a' && next <= 'z';
                if (next >= 0x80 || alphanumeric) {
                    throw in.wrong();
                }
                return one(next);
        }
    }

    /** So many digits, or any number of them in braces. */
    private int hexadecimal(int digits) {
        boolean braces = in.takes("{");
        long value = 0;
        int count = 0;
        while (braces ? in.peek() != '}' : count < digits) {
            int c = in.take();
            int digit = c < 0x80 ? Character.digit(c, 16) : -1;
            if (digit < 0) {
                throw in.wrong();
            }
            value = Math.min(16 * value + digit, 1L << 32);
            count++;
        }
        if (braces) {
            in.take();
        }
        if (count == 0 || value > CodePoints.LAST) {
            throw in.wrong();
        }
        return (int) value;
    }
}
