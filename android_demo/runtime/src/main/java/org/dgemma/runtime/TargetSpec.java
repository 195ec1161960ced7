package org.dgemma.runtime;

import java.util.List;
import java.util.Map;
import org.dgemma.runtime.Manifest.TensorSpec;
import org.jspecify.annotations.Nullable;

/** What a bundle holds for one accelerator, beside the graphs for processors. */
public final class TargetSpec {
    static final Kind<TargetSpec> KIND = Kind.object(TargetSpec::new,
            "chip", "precision", "versions", "options", "placement", "needs", "local", "constants", "table", "graphs");

    /** That contexts were compiled for; null where a backend of ExecuTorch runs the graphs. */
    public final @Nullable String chip;
    /** fp16; of integers a16 (16-bit activations in products, float16 elsewhere) or w16 (float16 activations). */
    public final String precision;
    /** Of the tools that compiled the graphs; {@code qairt} must be the runtime's. */
    public final Map<String, String> versions;
    /** That contexts are opened with, by name. */
    public final Map<String, String> options;
    /** Part of a step, and npu, the backend of ExecuTorch, or cpu. */
    public final Map<String, String> placement;
    /** Lowest operating systems, or what else has to be there. */
    public final @Nullable String needs;
    /** Most slots of a sliding layer's prefix. */
    public final int local;
    /** File of layer scalars and frequencies, which are inputs of the graphs. */
    public final String constants;
    public final TableSpec table;
    public final List<StaticGraph> graphs;

    private TargetSpec(Fields fields) {
        chip = fields.get("chip", Kind.TEXT, null);
        precision = fields.get("precision", Kind.TEXT);
        versions = fields.get("versions", Kind.map(Kind.TEXT));
        options = fields.get("options", Kind.map(Kind.TEXT));
        placement = fields.get("placement", Kind.map(Kind.TEXT));
        needs = fields.get("needs", Kind.TEXT, null);
        local = fields.get("local", Kind.INTEGER);
        constants = fields.get("constants", Kind.TEXT);
        table = fields.get("table", TableSpec.KIND);
        graphs = fields.get("graphs", Kind.list(StaticGraph.KIND));
    }

    /** A graph of fixed shapes that was compiled for an accelerator. */
    public static final class StaticGraph {
        static final Kind<StaticGraph> KIND = Kind.object(StaticGraph::new, "part", "first", "last", "rows", "slots", "file",
                "binary", "source", "method", "inputs", "outputs");

        /**
         * condition (embeddings and soft embeddings → what the layers read), layers (first up to last, which include the final
         * norm where they are the last ones), or head (hidden states → products with the ids first up to last).
         */
        public final String part;
        public final int first, last;
        /** Of the canvas or chunk. */
        public final int rows;
        /** Of the prefix. */
        public final int slots;
        /** What the accelerator's engine opens: a wrapper around a context in {@code binary}, or a .pte with {@code method}. */
        public final String file;
        public final @Nullable String binary;
        /** The ONNX graph that was compiled. */
        public final @Nullable String source;
        public final @Nullable String method;
        /** Of a method, in its order. */
        public final @Nullable List<TensorSpec> inputs, outputs;

        private StaticGraph(Fields fields) {
            part = fields.get("part", Kind.oneOf("condition", "layers", "head"));
            first = fields.get("first", Kind.INTEGER);
            last = fields.get("last", Kind.INTEGER);
            rows = fields.get("rows", Kind.INTEGER);
            slots = fields.get("slots", Kind.INTEGER);
            file = fields.get("file", Kind.TEXT);
            binary = fields.get("binary", Kind.TEXT, null);
            source = fields.get("source", Kind.TEXT, null);
            method = fields.get("method", Kind.TEXT, null);
            inputs = fields.get("inputs", Kind.list(TensorSpec.KIND), null);
            outputs = fields.get("outputs", Kind.list(TensorSpec.KIND), null);
            if (first < 0 || last < first || rows < 1 || slots < 0) {
                throw fields.wrong("first=" + first + ", last=" + last + ", rows=" + rows + ", slots=" + slots
                        + " of an accelerator's graph do not fit together");
            }
        }
    }

    /** Where the table of ids [V, D] lies in a file, float32, or int8 with a float32 scale for each id. */
    public static final class TableSpec {
        static final Kind<TableSpec> KIND = Kind.object(TableSpec::new, "file", "dtype", "offset", "scales");

        public final String file, dtype;
        /** In bytes. */
        public final long offset;
        public final @Nullable Long scales;

        private TableSpec(Fields fields) {
            file = fields.get("file", Kind.TEXT);
            dtype = fields.get("dtype", Kind.oneOf("float32", "int8"));
            offset = fields.get("offset", Kind.LONG);
            scales = fields.get("scales", Kind.orNull(Kind.LONG), null);
        }
    }
}
