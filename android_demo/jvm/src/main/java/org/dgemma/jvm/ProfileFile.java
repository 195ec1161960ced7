package org.dgemma.jvm;

import java.io.File;
import org.dgemma.runtime.Profile;
import org.dgemma.runtime.UsageException;

/** {@code --profile}: the JSON file that {@code dgemma tune} writes. */
final class ProfileFile {
    private ProfileFile() {}

    /** Throws UsageException, with options as they are typed. */
    static Profile read(String path) {
        if (path.endsWith(".toml")) {
            throw new UsageException("--profile " + path + ": is TOML, which this tool does not read; write it as JSON");
        }
        try {
            return Profile.read(new File(path));
        } catch (UsageException error) { // which begins with "profile " and the path
            String said = "profile " + new File(path);
            String why = error.getMessage().substring(said.length());
            boolean names = why.startsWith(": ");
            throw new UsageException(
                    "--profile " + path + (names ? ": " + Spelling.spelled(why.substring(2)) : why), error);
        }
    }
}
