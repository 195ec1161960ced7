package org.dgemma.runtime.engine;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.dgemma.runtime.BundleException;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Manifest.GraphSpec;
import org.dgemma.runtime.Manifest.TensorSpec;

/** A graph's inputs and outputs, compiled for checks that cost microseconds: native code may crash where these complain. */
final class Signature {
    private final String graph;
    private final Entry[] inputs;
    private final Entry[] outputs;
    /** Named dimensions in order of appearance, and the sizes seen in the check that runs; -1 is none yet. */
    private final List<String> names = new ArrayList<>();
    private final Map<String, int[]> ranges;
    private final long[] sizes;

    Signature(String graph, GraphSpec spec, Map<String, int[]> ranges) {
        this.graph = graph;
        this.ranges = ranges;
        inputs = compile(spec, spec.inputs, "input");
        outputs = compile(spec, spec.outputs, "output");
        sizes = new long[names.size()];
    }

    /** Names, dtypes, shapes and sizes that agree; throws EngineException. */
    void check(Map<String, Tensor> feeds, Map<String, Tensor> results) {
        Arrays.fill(sizes, -1);
        checkAll(inputs, feeds, "input");
        checkAll(outputs, results, "output");
        for (int i = 0; i < sizes.length; i++) {
            int[] range = ranges.get(names.get(i));
            long low = range == null ? 1 : range[0];
            long high = range == null ? sizes[i] : range[1];
            if (sizes[i] < low || sizes[i] > high) {
                throw new EngineException(
                        "graph '" + graph + "': " + names.get(i) + " = " + sizes[i] + " is outside " + low + "…" + high);
            }
        }
    }

    private void checkAll(Entry[] entries, Map<String, Tensor> tensors, String side) {
        for (Entry entry : entries) {
            Tensor tensor = tensors.get(entry.name);
            if (tensor == null) {
                throw misnamed(entries, tensors, side);
            }
            check(entry, tensor, side);
        }
        if (tensors.size() != entries.length) {
            throw misnamed(entries, tensors, side);
        }
    }

    private void check(Entry entry, Tensor tensor, String side) {
        if (tensor.dtype != entry.dtype || tensor.rank() != entry.sizes.length) {
            throw new EngineException("graph '" + graph + "': " + side + " '" + entry.name + "' must be "
                    + entry.dtype.word + " of shape " + entry.text);
        }
        long count = entry.dtype.bytes;
        for (int axis = 0; axis < entry.sizes.length; axis++) {
            long size = tensor.size(axis);
            long want = entry.sizes[axis];
            if (want < 0) {
                int dim = (int) (-1 - want);
                if (sizes[dim] == -1) {
                    sizes[dim] = size;
                }
                want = sizes[dim];
            }
            if (size != want || size < 0) {
                throw new EngineException("graph '" + graph + "': " + side + " '" + entry.name + "' has "
                        + Arrays.toString(tensor.shape()) + ", not " + entry.text);
            }
            count *= size;
        }
        if (!tensor.data.isDirect() || tensor.data.capacity() != count) {
            throw new EngineException("graph '" + graph + "': " + side + " '" + entry.name + "' must be a direct buffer of "
                    + count + " bytes");
        }
    }

    private EngineException misnamed(Entry[] entries, Map<String, Tensor> tensors, String side) {
        TreeSet<String> wrong = new TreeSet<>(tensors.keySet());
        for (Entry entry : entries) {
            if (tensors.get(entry.name) == null) {
                wrong.add(entry.name);
            } else {
                wrong.remove(entry.name);
            }
        }
        return new EngineException("graph '" + graph + "': " + side + " '" + wrong.first() + "' is missing or unknown");
    }

    private Entry[] compile(GraphSpec spec, List<TensorSpec> tensors, String side) {
        Map<String, Entry> found = new HashMap<>();
        Entry[] entries = new Entry[tensors.size()];
        for (int i = 0; i < entries.length; i++) {
            entries[i] = compile(spec, tensors.get(i));
            if (found.put(entries[i].name, entries[i]) != null) {
                throw new BundleException(spec.file + ": graph '" + graph + "' names " + side + " '" + entries[i].name
                        + "' twice; export it again");
            }
        }
        return entries;
    }

    private Entry compile(GraphSpec spec, TensorSpec tensor) {
        DType dtype = null;
        for (DType known : DType.values()) {
            if (known.word.equals(tensor.dtype)) {
                dtype = known;
            }
        }
        if (dtype == null) {
            throw new BundleException(
                    spec.file + ": graph '" + graph + "' has an unknown dtype (" + tensor.dtype + "); export it again");
        }
        long[] shape = new long[tensor.shape.size()];
        StringBuilder text = new StringBuilder("[");
        for (int axis = 0; axis < shape.length; axis++) {
            Object size = tensor.shape.get(axis);
            boolean named = size instanceof String;
            if (!named && ((Number) size).longValue() < 0) {
                throw new BundleException(spec.file + ": graph '" + graph + "': '" + tensor.name
                        + "' has a negative size; export it again");
            }
            shape[axis] = named ? -1 - dim((String) size) : ((Number) size).longValue();
            text.append(axis == 0 ? "" : ", ").append(named ? "'" + size + "'" : size);
        }
        return new Entry(tensor.name, dtype, shape, text.append(']').toString());
    }

    private int dim(String name) {
        if (!names.contains(name)) {
            names.add(name);
        }
        return names.indexOf(name);
    }

    /** One tensor; a size below zero is -1 minus the index of a named dimension. */
    private static final class Entry {
        final String name;
        final DType dtype;
        final long[] sizes;
        final String text;

        Entry(String name, DType dtype, long[] sizes, String text) {
            this.name = name;
            this.dtype = dtype;
            this.sizes = sizes;
            this.text = text;
        }
    }
}
