package org.dgemma.runtime;

import java.util.List;
import org.dgemma.DgemmaException;

/** An option or argument has a value that cannot be used. */
public class UsageException extends DgemmaException {
    private static final long serialVersionUID = 1L;

    public UsageException(String message) {
        super(message);
    }

    public UsageException(String message, Throwable cause) {
        super(message, cause);
    }

    /** Names of options in a message: a, b and c. */
    static String listed(List<String> names) {
        int last = names.size() - 1;
        return last < 1 ? names.get(0) : String.join(", ", names.subList(0, last)) + " and " + names.get(last);
    }
}
