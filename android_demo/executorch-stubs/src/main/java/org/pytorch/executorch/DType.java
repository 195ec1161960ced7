package org.pytorch.executorch;

/** Of the tensors that dgemma uses; the real enum has more. */
public enum DType {
    UINT8(0),
    INT8(1),
    INT64(4),
    FLOAT(6),
    DOUBLE(7),
    BOOL(11);

    public final int jniCode;

    DType(int jniCode) {
        this.jniCode = jniCode;
    }
}
