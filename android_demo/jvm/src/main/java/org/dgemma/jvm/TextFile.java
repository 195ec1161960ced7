package org.dgemma.jvm;

import java.io.File;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import org.dgemma.format.FileText;
import org.dgemma.runtime.UsageException;

/** Text files that options name. */
final class TextFile {
    private TextFile() {}

    /** The text of an option's file, in UTF-8. Throws UsageException. */
    static String read(String option, String path) {
        try {
            return FileText.read(new File(path));
        } catch (CharacterCodingException error) {
            throw new UsageException(option + " " + path + ": is not UTF-8 text; convert it first", error);
        } catch (IOException error) {
            throw new UsageException(option + " " + path + ": cannot be read (" + FileText.why(error) + "); name a text file", error);
        }
    }
}
