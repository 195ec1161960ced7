package org.dgemma.jvm;

import java.io.FilterOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import org.jspecify.annotations.Nullable;

/** Keeps the first error of a stream, which a PrintStream around it would only say that there was. */
final class Watched extends FilterOutputStream {
    private @Nullable IOException failure;

    Watched(OutputStream out) {
        super(out);
    }

    /** Why something could not be written; null where all was, or where its reader has gone, as in {@code … | head -1}. */
    @Nullable String failure() {
        String line = failure == null ? null : String.valueOf(failure.getMessage());
        return line == null || line.contains("Broken pipe") ? null : line;
    }

    @Override
    public void write(int value) throws IOException {
        write(new byte[] {(byte) value}, 0, 1);
    }

    @Override
    public void write(byte[] bytes, int from, int count) throws IOException {
        try {
            out.write(bytes, from, count);
        } catch (IOException error) {
            failure = failure == null ? error : failure;
            throw error;
        }
    }
}
