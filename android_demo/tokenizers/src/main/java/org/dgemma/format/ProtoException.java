package org.dgemma.format;

/** Bytes are no protocol-buffer message, or not of the kind that was expected. The message is one line. */
public final class ProtoException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    ProtoException(String message, int position) {
        super(message + " at byte " + position);
    }
}
