package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** Stand-in for the real class, with its refusals: there is no way in or out for a tensor of bool. */
public abstract class Tensor {
    protected final long[] shape;

    /** Internal to its module in Kotlin, which is public to Java. */
    public Tensor(long[] shape) {
        this.shape = shape.clone();
    }

    public static Tensor fromBlob(ByteBuffer data, long[] shape) {
        return new Plain(DType.INT8, data, data.capacity(), shape);
    }

    public static Tensor fromBlobUnsigned(ByteBuffer data, long[] shape) {
        return new Plain(DType.UINT8, data, data.capacity(), shape);
    }

    public static Tensor fromBlob(FloatBuffer data, long[] shape) {
        return new Plain(DType.FLOAT, data, data.capacity(), shape);
    }

    public static Tensor fromBlob(DoubleBuffer data, long[] shape) {
        return new Plain(DType.DOUBLE, data, data.capacity(), shape);
    }

    public static Tensor fromBlob(LongBuffer data, long[] shape) {
        return new Plain(DType.INT64, data, data.capacity(), shape);
    }

    public abstract DType dtype();

    public long[] shape() {
        return shape.clone();
    }

    public Buffer getRawDataBuffer() {
        throw new IllegalStateException("cannot return raw data buffer");
    }

    public byte[] getDataAsByteArray() {
        throw new IllegalStateException("cannot return data as byte array");
    }

    public byte[] getDataAsUnsignedByteArray() {
        throw new IllegalStateException("cannot return data as unsigned byte array");
    }

    public float[] getDataAsFloatArray() {
        throw new IllegalStateException("cannot return data as float array");
    }

    public long[] getDataAsLongArray() {
        throw new IllegalStateException("cannot return data as long array");
    }

    private static final class Plain extends Tensor {
        private final DType dtype;
        private final Buffer data;

        Plain(DType dtype, Buffer data, int capacity, long[] shape) {
            super(shape);
            this.dtype = dtype;
            this.data = data;
            long count = 1;
            for (long size : shape) {
                count *= size;
            }
            if (count != capacity || !data.isDirect()) {
                throw new IllegalArgumentException("Inconsistent data capacity:" + capacity);
            }
        }

        @Override
        public DType dtype() {
            return dtype;
        }

        @Override
        public Buffer getRawDataBuffer() {
            return data;
        }

        @Override
        public byte[] getDataAsByteArray() {
            return dtype == DType.INT8 ? bytes() : super.getDataAsByteArray();
        }

        @Override
        public byte[] getDataAsUnsignedByteArray() {
            return dtype == DType.UINT8 ? bytes() : super.getDataAsUnsignedByteArray();
        }

        private byte[] bytes() {
            byte[] copy = new byte[data.capacity()];
            ByteBuffer view = ((ByteBuffer) data).duplicate();
            view.clear();
            view.get(copy);
            return copy;
        }

        @Override
        public float[] getDataAsFloatArray() {
            if (dtype != DType.FLOAT) {
                return super.getDataAsFloatArray();
            }
            float[] copy = new float[data.capacity()];
            FloatBuffer view = ((FloatBuffer) data).duplicate();
            view.clear();
            view.get(copy);
            return copy;
        }

        @Override
        public long[] getDataAsLongArray() {
            if (dtype != DType.INT64) {
                return super.getDataAsLongArray();
            }
            long[] copy = new long[data.capacity()];
            LongBuffer view = ((LongBuffer) data).duplicate();
            view.clear();
            view.get(copy);
            return copy;
        }
    }

    /** What native code makes of an output of a type without a class of its own, such as bool. */
    public static final class Tensor_unsupported extends Tensor {
        @SuppressWarnings("unused") // as in the real class, nothing reads it
        private final ByteBuffer data;

        private final DType dtype;

        public Tensor_unsupported(ByteBuffer data, long[] shape, DType dtype) {
            super(shape);
            this.data = data;
            this.dtype = dtype;
        }

        @Override
        public DType dtype() {
            return dtype;
        }
    }
}
