package org.dgemma.jvm;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import org.dgemma.runtime.UsageException;

/** Text files that options name. */
final class TextFile {
    private TextFile() {}

    /** The text of an option's file, in UTF-8. Throws UsageException. */
    static String read(String option, String path) {
        try {
            byte[] bytes = Files.readAllBytes(new File(path).toPath());
            String text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
            return text.startsWith("\uFEFF") ? text.substring(1) : text;
        } catch (CharacterCodingException error) {
            throw new UsageException(option + " " + path + ": is not UTF-8 text; convert it first", error);
        } catch (IOException error) {
            String why = error instanceof NoSuchFileException ? "No such file or directory"
                    : error instanceof AccessDeniedException ? "Permission denied" : error.getMessage();
            throw new UsageException(option + " " + path + ": cannot be read (" + why + "); name a text file", error);
        }
    }
}
