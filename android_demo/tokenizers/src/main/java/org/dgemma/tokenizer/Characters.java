package org.dgemma.tokenizer;

/** Classes of characters as Unicode defines them, which are not those of java.lang.Character. */
final class Characters {
    private static final int LETTERS = bits(
            Character.UPPERCASE_LETTER, Character.LOWERCASE_LETTER, Character.TITLECASE_LETTER,
            Character.MODIFIER_LETTER, Character.OTHER_LETTER);
    private static final int MARKS =
            bits(Character.NON_SPACING_MARK, Character.COMBINING_SPACING_MARK, Character.ENCLOSING_MARK);
    private static final int PUNCTUATION = bits(
            Character.CONNECTOR_PUNCTUATION, Character.DASH_PUNCTUATION, Character.START_PUNCTUATION,
            Character.END_PUNCTUATION, Character.INITIAL_QUOTE_PUNCTUATION, Character.FINAL_QUOTE_PUNCTUATION,
            Character.OTHER_PUNCTUATION);
    private static final int NUMBERS =
            bits(Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER);
    private static final int OTHER_WORD = bits(Character.DECIMAL_DIGIT_NUMBER, Character.CONNECTOR_PUNCTUATION);

    private Characters() {}

    /** The property White_Space; all of them are single UTF-16 units. */
    static boolean isSpace(int c) {
        return c >= 9 && c <= 13 || c == 0x85 || Character.isSpaceChar(c);
    }

    static boolean isNumber(int c) {
        return isIn(NUMBERS, c);
    }

    /** Punctuation, and all ASCII signs such as $ and +. */
    static boolean isPunctuation(int c) {
        return isIn(PUNCTUATION, c) || c > ' ' && c < 0x7F && !Character.isLetterOrDigit(c);
    }

    /** \w of Unicode's regular expressions (UTS 18). */
    static boolean isWord(int c) {
        return isIn(LETTERS | MARKS | OTHER_WORD, c) || Character.isAlphabetic(c) || c == 0x200C || c == 0x200D;
    }

    private static boolean isIn(int types, int c) {
        return (types >> Character.getType(c) & 1) != 0;
    }

    private static int bits(byte... types) {
        int bits = 0;
        for (byte type : types) {
            bits |= 1 << type;
        }
        return bits;
    }
}
