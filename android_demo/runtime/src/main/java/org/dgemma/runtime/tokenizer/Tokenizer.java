package org.dgemma.runtime.tokenizer;

/** Text and ids. Implementations are immutable and safe for use by several threads. */
public interface Tokenizer {
    /** Pieces, added ones included. */
    int vocabSize();

    /** Ids of the text, with nothing added; marker strings become markers. */
    int[] encode(String text);

    /** Ids of text that somebody typed: markers in it are encoded as the plain characters that they are. */
    int[] encodeUser(String text);

    /** Text of the ids without markers; incomplete UTF-8 shows as U+FFFD. */
    String decode(int[] ids);

    /** One string an id for display, empty for markers; joined they are nearly {@link #decode}. */
    String[] pieces(int[] ids);
}
