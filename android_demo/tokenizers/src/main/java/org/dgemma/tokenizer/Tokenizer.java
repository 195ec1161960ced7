package org.dgemma.tokenizer;

import org.jspecify.annotations.Nullable;

/** Text and ids. Implementations are immutable and safe for use by several threads. */
public interface Tokenizer {
    /** Stands for no id. */
    int NONE = -1;

    /** Pieces, added ones included. */
    int vocabSize();

    /** Ids of the text, with nothing added; marker strings become markers. */
    int[] encode(String text);

    /** Ids of text that somebody typed: markers in it are encoded as the plain characters that they are. */
    default int[] encodeUser(String text) {
        return encodeUser(text, NONE, NONE);
    }

    /**
     * As above, of text between markers, whose neighbour it is encoded as where that matters to the format.
     *
     * @param before id that the text follows, or {@link #NONE}
     * @param after id that follows the text, or {@link #NONE}
     */
    int[] encodeUser(String text, int before, int after);

    /**
     * Text of the ids without markers, and without those past the vocabulary, which models are padded with; incomplete UTF-8
     * shows as U+FFFD.
     */
    String decode(int[] ids);

    /** One string an id for display, empty for markers; joined they are nearly {@link #decode}. */
    String[] pieces(int[] ids);

    /**
     * Whether an id writes a text of its own, wherever it stands: it is no marker, no gap and does not stand for what is
     * unknown. No id does where the format writes them otherwise beside others.
     */
    boolean writes(int id);

    /** The bytes that an id stands for, where the vocabulary says so in bytes; null for pieces of text. */
    byte @Nullable [] bytes(int id);
}
