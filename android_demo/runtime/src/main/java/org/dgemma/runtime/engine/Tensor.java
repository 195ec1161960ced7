package org.dgemma.runtime.engine;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;

/**
 * A dense row-major array in native memory, which engines read and write without a copy.
 *
 * <p>{@code data} is a direct buffer in native order from position 0 to its limit, which is the array's size in bytes.
 */
public final class Tensor {
    public final DType dtype;
    public final ByteBuffer data;
    private final long[] shape;

    private Tensor(DType dtype, long[] shape, ByteBuffer data) {
        this.dtype = dtype;
        this.shape = shape;
        this.data = data;
    }

    /** Zeros. */
    public static Tensor zeros(DType dtype, long... shape) {
        long bytes = dtype.bytes * elements(shape);
        if (bytes > Integer.MAX_VALUE) {
            throw new IllegalArgumentException("a tensor of " + bytes + " bytes is more than a buffer can hold");
        }
        return new Tensor(dtype, shape.clone(), ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.nativeOrder()));
    }

    /** The first {@code rows} of axis 1 of a tensor whose axis 0 is 1; it shares the memory. */
    public Tensor firstRows(int rows) {
        return rows(0, rows);
    }

    /** Rows {@code from} up to {@code end} of axis 1 of a tensor whose axis 0 is 1; it shares the memory. */
    public Tensor rows(int from, int end) {
        if (shape.length < 2 || shape[0] != 1 || from < 0 || from > end || end > shape[1]) {
            throw new IllegalArgumentException("rows " + from + " to " + end + " of shape " + Arrays.toString(shape));
        }
        long[] part = shape.clone();
        part[1] = end - from;
        long row = dtype.bytes * elements(shape) / Math.max(1, shape[1]);
        ByteBuffer view = data.duplicate();
        view.clear().position((int) (row * from)).limit((int) (row * end));
        return new Tensor(dtype, part, view.slice().order(ByteOrder.nativeOrder()));
    }

    /** The first elements, as an array of another shape; it shares the memory. */
    public Tensor first(long... part) {
        if (elements(part) > elements(shape)) {
            throw new IllegalArgumentException(Arrays.toString(part) + " of shape " + Arrays.toString(shape));
        }
        ByteBuffer view = data.duplicate();
        view.clear().limit((int) (dtype.bytes * elements(part)));
        return new Tensor(dtype, part.clone(), view.slice().order(ByteOrder.nativeOrder()));
    }

    public long[] shape() {
        return shape.clone();
    }

    public int rank() {
        return shape.length;
    }

    public long size(int axis) {
        return shape[axis];
    }

    private static long elements(long[] shape) {
        long count = 1;
        for (long size : shape) {
            count = Math.multiplyExact(count, size);
        }
        return count;
    }
}
