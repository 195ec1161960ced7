package org.dgemma.runtime;

/** Told how far long work has come, on the thread that does it. */
public interface ProgressListener {
    /** {@code done} of {@code total} bytes; the last call has them equal. */
    void onProgress(long done, long total);
}
