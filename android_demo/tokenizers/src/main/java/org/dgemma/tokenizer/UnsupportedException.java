package org.dgemma.tokenizer;


/** A `tokenizer.json` is sound but uses a component that is not here. */
final class UnsupportedException extends TokenizerException {
    private static final long serialVersionUID = 1L;

    UnsupportedException(String component) {
        super("uses " + component + ", which this runtime does not have;"
                + " export the bundle from a checkpoint that has a SentencePiece tokenizer.model");
    }
}
