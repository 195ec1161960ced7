package org.dgemma.runtime.engine;

import java.io.File;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Manifest.GraphSpec;
import org.dgemma.runtime.Manifest.TensorSpec;
import org.dgemma.runtime.SessionOptions;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;

/**
 * ExecuTorch on Android, through {@code org.pytorch.executorch.Module}: methods of one mapped {@code .pte}; inputs and
 * outputs go by position, in the order of the manifest.
 *
 * <p><b>It has not run on a device.</b> It is compiled against declarations of v1.4.1 and tested on tensors that were
 * recorded from ExecuTorch on a desktop. What the Java API leaves open:
 * <ul>
 *   <li>Results are copied: they live in the program's memory until its next call.
 *   <li>A call cannot be ended from outside, so {@link #interrupt} waits for it.
 *   <li>The API has no tensors of bool. One that goes in is a subclass of ours, which v1.0.1 does not allow: there only the
 *       host loop runs, and only over every position. One that comes out is read from a private field, which R8 must keep.
 *   <li>XNNPACK's weight cache is on in the official builds; its file cannot be named through the Java API, which sets
 *       options of type int only. So weights are packed at every load, once for all methods.
 *   <li>The version of the library is not told, so a bundle's lowest version is not checked.
 * </ul>
 */
final class ExecuTorchEngine extends AbstractEngine {
    private final int threads;
    private final Map<String, Module> files = new HashMap<>();
    private final Map<String, Module> modules = new HashMap<>();

    ExecuTorchEngine(Bundle bundle, SessionOptions options) {
        super(Engines.EXECUTORCH, "unknown", bundle);
        this.threads = options.threads;
    }

    @Override
    void load(String graph, GraphSpec spec) throws Exception {
        Module module = files.get(spec.file);
        if (module == null) {
            module = Module.load(bundle.file(spec.file).getAbsolutePath(), Module.LOAD_MODE_MMAP, threads);
            files.put(spec.file, module);
        }
        String method = method(graph, spec);
        if (!Arrays.asList(module.getMethods()).contains(method)) {
            throw new EngineException(new File(bundle.folder(), spec.file) + ": has no method '" + method
                    + "'; export the bundle again");
        }
        try {
            loadMethod(module, method);
        } catch (Exception error) {
            throw Memory.expertBits(bundle.manifest()) == 32 ? error : new EngineException(
                    "executorch cannot load method '" + method + "' (" + line(error) + "); a quantized mixture of experts needs "
                            + "the operator dgemma::experts.out in the app's ExecuTorch library, which the published one does "
                            + "not have: link it in, or choose engine 'onnx'", error);
        }
        modules.put(graph, module);
    }

    @Override
    void call(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) throws Exception {
        GraphSpec spec = bundle.graph(name(), graph);
        EValue[] inputs = new EValue[spec.inputs.size()];
        for (int i = 0; i < inputs.length; i++) {
            inputs[i] = EValue.from(wrap(feeds.get(spec.inputs.get(i).name)));
        }
        EValue[] results = modules.get(graph).execute(method(graph, spec), inputs);
        List<TensorSpec> wanted = spec.outputs;
        if (results.length != wanted.size()) {
            throw new EngineException("graph '" + graph + "': gave " + results.length + " outputs instead of "
                    + wanted.size());
        }
        for (int i = 0; i < results.length; i++) {
            Tensor output = outputs.get(wanted.get(i).name);
            if (!results[i].isTensor() || !copy(results[i].toTensor(), output)) {
                throw new EngineException("graph '" + graph + "': output '" + wanted.get(i).name + "' is not "
                        + output.dtype.word + " of shape " + Arrays.toString(output.shape()));
            }
        }
    }

    @Override
    void free() {
        for (Module module : files.values()) {
            module.destroy();
        }
        files.clear();
        modules.clear();
    }

    private static String method(String graph, GraphSpec spec) {
        return spec.method == null ? graph : spec.method;
    }

    /** By reflection, for its return type is another one in v1.0.1. */
    private static void loadMethod(Module module, String method) throws Exception {
        Object code;
        try {
            code = Module.class.getMethod("loadMethod", String.class).invoke(module, method);
        } catch (InvocationTargetException error) {
            throw error.getCause() instanceof Exception ? (Exception) error.getCause() : error;
        }
        if (code instanceof Integer && (Integer) code != 0) {
            throw new EngineException("executorch cannot load method '" + method + "' (error " + code + ")");
        }
    }

    private static org.pytorch.executorch.Tensor wrap(Tensor tensor) {
        ByteBuffer data = view(tensor);
        switch (tensor.dtype) {
            case FLOAT32:
                return org.pytorch.executorch.Tensor.fromBlob(data.asFloatBuffer(), tensor.shape());
            case FLOAT64:
                return org.pytorch.executorch.Tensor.fromBlob(data.asDoubleBuffer(), tensor.shape());
            case INT64:
                return org.pytorch.executorch.Tensor.fromBlob(data.asLongBuffer(), tensor.shape());
            default:
                return new BoolTensor(data, tensor.shape());
        }
    }

    /** Copy a result; false when it has another type or shape. */
    private static boolean copy(org.pytorch.executorch.Tensor from, Tensor to) throws ReflectiveOperationException {
        if (!Arrays.equals(from.shape(), to.shape())) {
            return false;
        }
        ByteBuffer data = view(to);
        switch (from.dtype()) {
            case FLOAT:
                return to.dtype == DType.FLOAT32 && data.asFloatBuffer().put(from.getDataAsFloatArray()) != null;
            case INT64:
                return to.dtype == DType.INT64 && data.asLongBuffer().put(from.getDataAsLongArray()) != null;
            case UINT8:
                return to.dtype == DType.BOOL && data.put(from.getDataAsUnsignedByteArray()) != null;
            case INT8:
                return to.dtype == DType.BOOL && data.put(from.getDataAsByteArray()) != null;
            case BOOL:
                return to.dtype == DType.BOOL && data.put(bools(from)) != null;
            default:
                return false;
        }
    }

    private static ByteBuffer bools(org.pytorch.executorch.Tensor from) throws ReflectiveOperationException {
        Field field = from.getClass().getDeclaredField("data");
        field.setAccessible(true);
        ByteBuffer data = ((ByteBuffer) field.get(from)).duplicate();
        data.clear();
        return data;
    }

    private static ByteBuffer view(Tensor tensor) {
        ByteBuffer data = tensor.data.duplicate().order(ByteOrder.nativeOrder());
        data.clear();
        return data;
    }

    /** What {@code Tensor.fromBlob} has no case for. */
    private static final class BoolTensor extends org.pytorch.executorch.Tensor {
        private final ByteBuffer data;

        BoolTensor(ByteBuffer data, long[] shape) {
            super(shape);
            this.data = data;
        }

        @Override
        public org.pytorch.executorch.DType dtype() {
            return org.pytorch.executorch.DType.BOOL;
        }

        @Override
        public Buffer getRawDataBuffer() {
            return data;
        }
    }
}
