package org.dgemma.tokenizer;

import org.dgemma.DgemmaException;

/** A tokenizer file cannot be read, or the text or ids cannot be converted. */
public class TokenizerException extends DgemmaException {
    private static final long serialVersionUID = 1L;

    public TokenizerException(String message) {
        super(message);
    }

    public TokenizerException(String message, Throwable cause) {
        super(message, cause);
    }
}
