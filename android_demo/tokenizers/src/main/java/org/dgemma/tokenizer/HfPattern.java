package org.dgemma.tokenizer;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/**
 * What to look for in a text. A regular expression of a `tokenizer.json` is written for Oniguruma (Ruby's syntax,
 * Unicode classes); it is rewritten for java.util.regex, with explicit classes, since the desktop's and Android's take \s,
 * \w and \d differently.
 */
final class HfPattern {
    private static final String SPACE = "\\t-\\r\\x{85}\\p{Z}";
    /** Oniguruma counts ¹ ² ³ ¼ ½ ¾ too, as its Latin-1 table does, and no other such number. */
    private static final String WORD = "\\p{IsAlphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xB2\\xB3\\xB9\\xBC-\\xBE";

    private final Pattern pattern;

    private HfPattern(Pattern pattern) {
        this.pattern = pattern;
    }

    static HfPattern literal(String text) {
        return new HfPattern(Pattern.compile(Pattern.quote(text)));
    }

    static HfPattern regex(String oniguruma) {
        try {
            // UNICODE_CASE counts for (?i) only: Oniguruma takes U+017F for an s there, and so do we.
            return new HfPattern(Pattern.compile(new Rewriter(oniguruma).rewrite(), Pattern.UNICODE_CASE));
        } catch (PatternSyntaxException error) {
            throw new TokenizerException("the regular expression " + oniguruma + " is wrong");
        }
    }

    /** A pattern in Java's own syntax. */
    static HfPattern java(String regex) {
        return new HfPattern(Pattern.compile(regex));
    }

    /** The text as spans without gaps: end, and 1 for a match or 0. */
    Ints spans(String text) {
        Ints spans = new Ints(32);
        int end = 0;
        try {
            for (Matcher matcher = pattern.matcher(text); matcher.find(); ) {
                if (matcher.start() > end) {
                    spans.add(matcher.start());
                    spans.add(0);
                }
                spans.add(matcher.end());
                spans.add(1);
                end = matcher.end();
            }
        } catch (StackOverflowError error) {
            throw new TokenizerException("the text cannot be encoded (its words are too long); give a shorter text");
        }
        if (end < text.length()) {
            spans.add(text.length());
            spans.add(0);
        }
        return spans;
    }

    String replace(String text, String content) {
        return pattern.matcher(text).replaceAll(Matcher.quoteReplacement(content));
    }

    /** Oniguruma's syntax to Java's; what means something else there and is not needed here is refused. */
    private static final class Rewriter {
        private final String source;
        private final StringBuilder out = new StringBuilder();
        private int at;
        private boolean inClass;

        Rewriter(String source) {
            this.source = source;
        }

        String rewrite() {
            while (at < source.length()) {
                char c = source.charAt(at++);
                if (c == '\\') {
                    escape();
                } else if (inClass) {
                    inClass(c);
                } else {
                    outside(c);
                }
            }
            return out.toString();
        }

        private void outside(char c) {
            switch (c) {
                case '[':
                    inClass = true;
                    out.append(c);
                    if (follows("^")) {
                        out.append('^');
                        at++;
                    }
                    if (follows("]")) {
                        throw refuse();
                    }
                    break;
                case '(':
                    out.append(c);
                    group();
                    break;
                case '.':
                    out.append("[^\\n]");
                    break;
                case '^': // begin of a line
                    out.append("(?<![^\\n])");
                    break;
                case '$':
                    out.append("(?![^\\n])");
                    break;
                case '{':
                    repeat();
                    break;
                default:
                    out.append(c);
            }
        }

        private void inClass(char c) {
            if (c == '[' || c == '&' && follows("&")) {
                throw refuse();
            }
            inClass = c != ']';
            out.append(c);
        }

        private void group() {
            if (!follows("?")) {
                return;
            }
            for (String kind : new String[] {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:", "?i)"}) {
                if (follows(kind)) {
                    out.append(kind);
                    at += kind.length();
                    return;
                }
            }
            throw refuse();
        }

        /** {n}, {n,} or {n,m}; what follows means the same in both only if it is not a plus. */
        private void repeat() {
            int end = source.indexOf('}', at);
            if (end < 0 || !source.substring(at, end).matches("[0-9]+(,[0-9]*)?") || source.startsWith("+", end + 1)) {
                throw refuse();
            }
            out.append('{').append(source, at, end + 1);
            at = end + 1;
        }

        private void escape() {
            if (at >= source.length()) {
                throw refuse();
            }
            char c = source.charAt(at++);
            switch (c) {
                case 's':
                    set(SPACE, false);
                    break;
                case 'S':
                    set(SPACE, true);
                    break;
                case 'w':
                    set(WORD, false);
                    break;
                case 'W':
                    set(WORD, true);
                    break;
                case 'd':
                    set("\\p{Nd}", false);
                    break;
                case 'D':
                    set("\\p{Nd}", true);
                    break;
                case 'v':
                    out.append("\\x0B");
                    break;
                case 'p':
                case 'P':
                    property(c);
                    break;
                case 'x':
                case 'u':
                case 'r':
                case 'n':
                case 't':
                case 'f':
                    out.append('\\').append(c);
                    break;
                case 'A':
                case 'z':
                    if (inClass) {
                        throw refuse();
                    }
                    out.append('\\').append(c);
                    break;
                default:
                    if (Character.isLetterOrDigit(c)) {
                        throw refuse();
                    }
                    out.append('\\').append(c);
            }
        }

        private void set(String members, boolean negated) {
            if (inClass && negated) {
                throw refuse(); // Java 8 and 9 disagree on sets within negated sets
            }
            out.append(inClass ? members : (negated ? "[^" : "[") + members + "]");
        }

        /** \p{L}, \p{^L}, \p{Han}: general categories keep their names, scripts are called IsHan. */
        private void property(char letter) {
            int end = source.indexOf('}', at);
            if (!follows("{") || end < 0) {
                throw refuse();
            }
            boolean negated = source.startsWith("^", at + 1);
            String name = source.substring(at + (negated ? 2 : 1), end);
            if (!name.matches("[A-Z][a-z]*") || negated && letter == 'P') {
                throw refuse();
            }
            String script = name.length() > 2 ? "Is" : "";
            out.append('\\').append(negated ? 'P' : letter).append('{').append(script).append(name).append('}');
            at = end + 1;
        }

        private boolean follows(String text) {
            return source.startsWith(text, at);
        }

        private UnsupportedException refuse() {
            return new UnsupportedException("the regular expression " + source);
        }
    }
}
