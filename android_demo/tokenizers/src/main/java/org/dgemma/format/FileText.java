package org.dgemma.format;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import org.jspecify.annotations.Nullable;

/** Text of files that users name, and why a file cannot be read. */
public final class FileText {
    private FileText() {}

    /**
     * A file's text in UTF-8, without a byte order mark.
     *
     * @throws java.nio.charset.CharacterCodingException it is no such text
     * @throws IOException it cannot be read, see {@link #why}
     */
    public static String read(File file) throws IOException {
        byte[] bytes = Files.readAllBytes(file.toPath());
        String text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
        return text.startsWith("\uFEFF") ? text.substring(1) : text;
    }

    /** The reason in the system's words, without the path. */
    public static @Nullable String why(IOException error) {
        return error instanceof NoSuchFileException ? "No such file or directory"
                : error instanceof AccessDeniedException ? "Permission denied" : error.getMessage();
    }
}
