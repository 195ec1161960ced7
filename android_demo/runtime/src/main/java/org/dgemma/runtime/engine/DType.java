package org.dgemma.runtime.engine;

/** Element types of graph inputs and outputs, by their names in a manifest. */
public enum DType {
    INT64("int64", 8),
    FLOAT32("float32", 4),
    FLOAT64("float64", 8),
    BOOL("bool", 1);

    public final String word;
    public final int bytes;

    DType(String word, int bytes) {
        this.word = word;
        this.bytes = bytes;
    }
}
