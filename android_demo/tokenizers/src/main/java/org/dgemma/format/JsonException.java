package org.dgemma.format;

/** A text is not JSON, or a value cannot be written as JSON. The message is one line. */
public final class JsonException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final int position;

    JsonException(String message, int position) {
        super(position < 0 ? message : message + " at byte " + position);
        this.position = position;
    }

    /** Index of the offending byte in the text, counted from 0; -1 where no text was read. */
    public int position() {
        return position;
    }
}
