package org.dgemma.runtime.engine;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.IdentityHashMap;
import java.util.Iterator;
import java.util.Map;

/**
 * onnxruntime's handles of the caller's tensors: made once, kept while the tensor is in use, and closed.
 *
 * <p>A handle that no run has used for {@link #IDLE} runs goes, so that callers who make new tensors cost no memory that grows.
 */
final class OnnxTensors {
    static final int IDLE = 64;

    private final OrtEnvironment environment;
    private final Map<Tensor, Handle> handles = new IdentityHashMap<>();
    private long run;

    OnnxTensors(OrtEnvironment environment) {
        this.environment = environment;
    }

    /** A run begins. */
    void next() {
        if (++run % IDLE == 0) {
            for (Iterator<Handle> each = handles.values().iterator(); each.hasNext(); ) {
                Handle handle = each.next();
                if (handle.last < run - IDLE) {
                    handle.value.close();
                    each.remove();
                }
            }
        }
    }

    /** The handle of a tensor whose shape and size were checked. */
    OnnxTensor of(Tensor tensor) throws OrtException {
        Handle found = handles.get(tensor);
        if (found == null) {
            found = new Handle(make(tensor));
            handles.put(tensor, found);
        }
        found.last = run;
        return found.value;
    }

    int size() {
        return handles.size();
    }

    void close() {
        for (Handle handle : handles.values()) {
            handle.value.close();
        }
        handles.clear();
    }

    private OnnxTensor make(Tensor tensor) throws OrtException {
        ByteBuffer data = tensor.data.duplicate().order(ByteOrder.nativeOrder());
        data.clear(); // a caller may have moved position and limit
        switch (tensor.dtype) {
            case FLOAT32:
                return OnnxTensor.createTensor(environment, data.asFloatBuffer(), tensor.shape());
            case FLOAT64:
                return OnnxTensor.createTensor(environment, data.asDoubleBuffer(), tensor.shape());
            case INT64:
                return OnnxTensor.createTensor(environment, data.asLongBuffer(), tensor.shape());
            default:
                return OnnxTensor.createTensor(environment, data, tensor.shape(), OnnxJavaType.BOOL);
        }
    }

    private static final class Handle {
        final OnnxTensor value;
        long last;

        Handle(OnnxTensor value) {
            this.value = value;
        }
    }
}
