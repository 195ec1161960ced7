package org.dgemma.runtime.structure;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.regex.Pattern;
import org.dgemma.runtime.UsageException;

/**
 * Reads a regular expression in the syntax of Rust's regex crate, which Python's runtime reads as well. What means something
 * there and is not compiled here is refused by name: flags such as (?i), Unicode classes such as \p{L}, and classes inside
 * classes. {@link ClassReader} reads what stands for one character.
 */
final class RegexReader {
    /** Groups and repetitions inside one another, as there. */
    private static final int DEEPEST = 250;
    private static final int MOST_COUNT = 1 << 20;
    private static final Pattern NAME = Pattern.compile("[A-Za-z_][A-Za-z0-9_.\\[\\]]*");
    private static final Pattern FLAGS = Pattern.compile("[imsUxuR-]+");

    private final String said;
    private final int[] text;
    private final Set<String> names = new HashSet<>();
    private int at;
    private int open;

    private RegexReader(String regex, String said) {
        this.said = said;
        text = regex.codePoints().toArray();
    }

    /**
     * The tree of an expression.
     *
     * @param said what errors begin with
     * @throws UsageException it cannot be read, or has something that is not supported
     */
    static Syntax read(String regex, String said) {
        RegexReader reader = new RegexReader(regex, said);
        for (int character : reader.text) {
            if (Character.getType(character) == Character.SURROGATE) {
                throw new UsageException(said + ": is not valid Unicode text");
            }
        }
        Syntax found = reader.choice();
        if (reader.at < reader.text.length) {
            throw reader.unbalanced();
        }
        return found;
    }

    boolean ended() {
        return at == text.length;
    }

    /** The next character, -1 at the end. */
    int peek() {
        return peek(0);
    }

    int peek(int further) {
        return at + further < text.length ? text[at + further] : -1;
    }

    /** Throws UsageException at the end. */
    int take() {
        if (ended()) {
            throw wrong();
        }
        return text[at++];
    }

    /** Takes a text where it comes next. */
    boolean takes(String next) {
        for (int i = 0; i < next.length(); i++) {
            if (peek(i) != next.charAt(i)) {
                return false;
            }
        }
        at += next.length();
        return true;
    }

    UsageException wrong() {
        return new UsageException(said + ": is not a regular expression in Rust's syntax, which has no look-around and no "
                + "backreferences; see docs.rs/regex");
    }

    UsageException unbalanced() {
        return new UsageException(
                said + ": has unbalanced parentheses or brackets; close them, or escape them with a backslash");
    }

    UsageException unsupported(String what) {
        return new UsageException(said + ": has " + what + ", which Java does not compile; write it in other words, or "
                + "compile it with `dgemma structure`");
    }

    UsageException anchored(boolean word) {
        return new UsageException(said + (word
                ? ": has a word boundary, which is not supported for Unicode text; leave \\b out"
                : ": has ^, $ or \\b inside; the whole answer is matched, so leave them out"));
    }

    private Syntax choice() {
        List<Syntax> parts = new ArrayList<>();
        do {
            parts.add(sequence());
        } while (takes("|"));
        return Syntax.choice(parts);
    }

    private Syntax sequence() {
        List<Syntax> parts = new ArrayList<>();
        while (!ended() && peek() != '|' && peek() != ')') {
            int next = take();
            if (next == '*' || next == '+' || next == '?' || next == '{') {
                if (parts.isEmpty()) {
                    throw wrong();
                }
                parts.add(repeated(parts.remove(parts.size() - 1), next));
            } else {
                parts.add(next == '(' ? group() : Syntax.characters(ClassReader.read(this, next)));
            }
        }
        return Syntax.sequence(parts);
    }

    private Syntax repeated(Syntax part, int mark) {
        int[] counts = {mark == '+' ? 1 : 0, mark == '?' ? 1 : Syntax.UNBOUNDED};
        if (mark == '{') {
            counts = counts();
        }
        takes("?"); // which of several matches is found does not matter
        if (part.depth >= DEEPEST) {
            throw new UsageException(said + ": is nested more than " + DEEPEST + " deep; make it flatter");
        }
        return Syntax.repeat(part, counts[0], counts[1]);
    }

    /** Of {n}, {n,} or {n,m}, behind its bracket. */
    private int[] counts() {
        int least = count();
        int most = least;
        if (takes(",")) {
            most = peek() == '}' ? Syntax.UNBOUNDED : count();
        }
        if (!takes("}") || most != Syntax.UNBOUNDED && most < least) {
            throw wrong();
        }
        return new int[] {least, most};
    }

    private int count() {
        while (takes(" ")) {
            // as there
        }
        if (peek() < '0' || peek() > '9') {
            throw wrong();
        }
        long value = 0;
        while (peek() >= '0' && peek() <= '9') {
            value = Math.min(10 * value + take() - '0', 1L << 32);
        }
        while (takes(" ")) {
            // as there
        }
        if (value == 1L << 32) {
            throw wrong();
        }
        if (value > MOST_COUNT) {
            throw new UsageException(said + ByteAutomaton.TOO_LARGE);
        }
        return (int) value;
    }

    /** Behind its parenthesis. */
    private Syntax group() {
        if (takes("?") && !takes(":")) {
            named();
        }
        if (++open > DEEPEST) {
            throw new UsageException(said + ": is nested more than " + DEEPEST + " deep; make it flatter");
        }
        Syntax inside = choice();
        open--;
        if (!takes(")")) {
            throw unbalanced();
        }
        return inside;
    }

    /** The name of a group, behind its question mark; throws UsageException for all else that can stand there. */
    private void named() {
        int from = at;
        if ((takes("P<") || takes("<")) && peek() != '=' && peek() != '!') {
            int start = at;
            while (!ended() && peek() != '>') {
                at++;
            }
            String name = new String(text, start, at - start);
            if (takes(">") && NAME.matcher(name).matches() && names.add(name)) {
                return;
            }
            throw wrong();
        }
        at = from;
        while (!ended() && peek() != ':' && peek() != ')') {
            at++;
        }
        String flags = new String(text, from, at - from);
        throw FLAGS.matcher(flags).matches() ? unsupported("the flags (?" + flags + ")") : wrong();
    }
}
