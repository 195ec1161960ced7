package org.dgemma.runtime;

import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.List;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;

/** Native arrays of a session: made with typed errors, filled and read row by row. */
final class Buffers {
    private Buffers() {}

    /** Zeros; throws EngineException where there is no memory for them. */
    static Tensor zeros(DType dtype, long... shape) {
        try {
            return Tensor.zeros(dtype, shape);
        } catch (IllegalArgumentException | ArithmeticException | OutOfMemoryError error) {
            throw new EngineException(
                    "no memory for the session's buffers (" + error.getMessage() + "); close other programs, give the "
                            + "JVM more direct memory, or use a bundle with a shorter context",
                    error);
        }
    }

    static Tensor scalar(long value) {
        Tensor tensor = zeros(DType.INT64, 1);
        tensor.data.putLong(0, value);
        return tensor;
    }

    /** The first values of an int64 tensor. */
    static void write(long[] values, Tensor to) {
        to.data.asLongBuffer().put(values);
    }

    /** Row number {@code row} of an int64 tensor whose rows have as many elements as {@code to}. */
    static void read(Tensor from, int row, int[] to) {
        LongBuffer values = from.data.asLongBuffer();
        int start = row * to.length;
        for (int i = 0; i < to.length; i++) {
            to[i] = (int) values.get(start + i);
        }
    }

    /** As above, of a float32 tensor. */
    static void read(Tensor from, int row, float[] to) {
        FloatBuffer values = from.data.asFloatBuffer();
        values.position(row * to.length);
        values.get(to);
    }

    /** As above, of a bool tensor. */
    static void read(Tensor from, int row, boolean[] to) {
        int start = row * to.length;
        for (int i = 0; i < to.length; i++) {
            to[i] = from.data.get(start + i) != 0;
        }
    }

    /** {least, most} of one input's size, from the manifest. */
    static int[] inputDim(Engine engine, String graph, String name, int axis) {
        Object size = inputSize(engine, graph, name, axis);
        if (size instanceof Number) {
            int fixed = ((Number) size).intValue();
            return new int[] {fixed, fixed};
        }
        int[] range = engine.bundle().manifest().dims.get(size);
        return range == null ? new int[] {1, 1} : range.clone();
    }

    /** One input's size as the manifest has it: a number, or the name of a dimension. */
    static Object inputSize(Engine engine, String graph, String name, int axis) {
        Bundle bundle = engine.bundle();
        for (Manifest.TensorSpec spec : bundle.graph(engine.name(), graph).inputs) {
            List<Object> shape = spec.shape;
            if (spec.name.equals(name) && axis < shape.size()) {
                return shape.get(axis);
            }
        }
        throw new BundleException(
                bundle.folder() + ": graph '" + graph + "' has no input '" + name + "'; export the bundle again");
    }
}
