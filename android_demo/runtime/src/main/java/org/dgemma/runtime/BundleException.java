package org.dgemma.runtime;

import org.dgemma.DgemmaException;

/** A bundle cannot be trusted: version, digest, size, hash, path or manifest key. */
public class BundleException extends DgemmaException {
    private static final long serialVersionUID = 1L;

    public BundleException(String message) {
        super(message);
    }

    public BundleException(String message, Throwable cause) {
        super(message, cause);
    }
}
