package org.dgemma.tokenizer;

import java.util.List;

/** A stretch of text on its way to the model: an added token already, or text to be cut further. */
final class HfPart {
    private static final int NO_TOKEN = -1;

    String text;
    final int token;
    /** True if it begins where the whole text began. */
    boolean atStart;

    HfPart(String text, boolean atStart) {
        this(text, NO_TOKEN, atStart);
    }

    HfPart(String text, int token, boolean atStart) {
        this.text = text;
        this.token = token;
        this.atStart = atStart;
    }

    boolean isToken() {
        return token != NO_TOKEN;
    }

    /** Adds the part of the text from…to, unless it is empty. */
    void slice(int from, int to, List<HfPart> out) {
        if (from < to) {
            boolean whole = from == 0 && to == text.length();
            out.add(whole ? this : new HfPart(text.substring(from, to), atStart && from == 0));
        }
    }
}
