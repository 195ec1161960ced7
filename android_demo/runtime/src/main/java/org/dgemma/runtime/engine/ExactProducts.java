package org.dgemma.runtime.engine;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.format.ProtoReader;
import org.jspecify.annotations.Nullable;

/**
 * Exact integer products, also where onnxruntime's are not.
 *
 * <p>On x86 without VNNI and AMX, its kernel for unsigned times signed bytes adds pairs of products in 16 bits, which
 * saturate ({@code vpmaddubsw}); the one for unsigned times unsigned bytes adds in 32, exact and slower. There, and only
 * there, a graph is opened with 128 added to its signed weights and to their zero points, which leaves sums as they are.
 * The Python runtime's {@code exact_products.py} does the same and says what is wrong with onnxruntime's own option for this. Field
 * numbers are those of onnx.proto.
 */
final class ExactProducts {
    private static final int MODEL_VERSION = 1;
    private static final int MODEL_OPSET = 8;
    private static final int GRAPH_NODE = 1;
    private static final int GRAPH_NAME = 2;
    private static final int GRAPH_OUTPUT = 12;
    private static final int NODE_INPUT = 1;
    private static final int NODE_OUTPUT = 2;
    private static final int NODE_OPERATOR = 4;
    private static final int NODE_ATTRIBUTE = 5;
    private static final int ATTRIBUTE_NAME = 1;
    private static final int ATTRIBUTE_INTEGER = 3;
    private static final int ATTRIBUTE_GRAPH = 6;
    private static final int ATTRIBUTE_GRAPHS = 11;
    private static final int ATTRIBUTE_TYPE = 20;
    private static final int UINT8 = 2;
    private static final int INT8 = 3;
    private static final int INT32 = 6;

    private static final ByteBuffer NOTHING = ByteBuffer.allocate(0);
    private static final String ZERO = "unsigned/zero";
    private static final int LENGTH = 64; // of the rows that are multiplied to see
    private static @Nullable Boolean saturates;

    private final ByteBuffer data;
    private final Map<String, Integer> made = new HashMap<>(); // products by weight

    /** @param data the serialized model whose graph is to be changed. */
    ExactProducts(ByteBuffer data) {
        this.data = data;
    }

    /** Whether products of unsigned and signed bytes are wrong here when they are large, found by multiplying. */
    static synchronized boolean saturates(OrtEnvironment environment) throws OrtException {
        if (saturates == null) {
            try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
                options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL);
                options.setIntraOpNumThreads(1);
                try (OrtSession session = environment.createSession(largest(), options);
                        OrtSession.Result found = session.run(Collections.<String, OnnxTensor>emptyMap())) {
                    saturates = ((int[][]) found.get(0).getValue())[0][0] != 127 * 127 * LENGTH;
                }
            }
        }
        return saturates;
    }

    /** Append a field of a graph: a node with unsigned weights where it is an integer product, anything else as it is. */
    void keep(ProtoReader field, ProtoPieces graph) {
        if (field.number() != GRAPH_NODE) {
            graph.keep(field);
            return;
        }
        List<String> inputs = new ArrayList<>();
        String operator = "";
        ProtoPieces node = new ProtoPieces(data);
        for (ProtoReader part = field.message(); part.next(); ) {
            if (part.number() == NODE_INPUT) {
                inputs.add(part.text());
            } else if (part.number() == NODE_ATTRIBUTE) {
                node.message(NODE_ATTRIBUTE, attribute(part.message()));
            } else {
                node.keep(part);
                operator = part.number() == NODE_OPERATOR ? part.text() : operator;
            }
        }
        int zero = zeroPoint(operator);
        if (zero >= 0) {
            String weight = inputs.get(1);
            int earlier = made.containsKey(weight) ? made.get(weight) : 0;
            made.put(weight, earlier + 1);
            String name = "unsigned/" + earlier + "/" + weight;
            while (inputs.size() <= zero) {
                inputs.add("");
            }
            inputs.set(1, name);
            inputs.set(zero, ZERO);
            // A cast wraps (ONNX, Cast: high bits are dropped), and the highest bit is 128.
            ProtoPieces cast = operator("Cast", name + "/wrapped", weight);
            ProtoPieces to = new ProtoPieces(NOTHING);
            to.text(ATTRIBUTE_NAME, "to");
            to.number(ATTRIBUTE_INTEGER, UINT8);
            to.number(ATTRIBUTE_TYPE, 2); // an integer
            cast.message(NODE_ATTRIBUTE, to);
            graph.message(GRAPH_NODE, cast);
            graph.message(GRAPH_NODE, operator("BitwiseXor", name, name + "/wrapped", ZERO));
        }
        for (String input : inputs) {
            node.text(NODE_INPUT, input);
        }
        graph.message(GRAPH_NODE, node);
    }

    /** Append what unsigned weights need to the outermost graph. */
    static void finish(ProtoPieces graph) {
        graph.message(OnnxModel.GRAPH_INITIALIZER, tensor(ZERO, UINT8, (byte) 128, 1));
    }

    private ProtoPieces attribute(ProtoReader attribute) {
        ProtoPieces out = new ProtoPieces(data);
        while (attribute.next()) {
            if (attribute.number() == ATTRIBUTE_GRAPH || attribute.number() == ATTRIBUTE_GRAPHS) {
                ProtoPieces inner = new ProtoPieces(data);
                for (ProtoReader field = attribute.message(); field.next(); ) {
                    keep(field, inner);
                }
                out.message(attribute.number(), inner);
            } else {
                out.keep(attribute);
            }
        }
        return out;
    }

    /** Which input of a product of unsigned by signed bytes is the zero point of input 1, its weight; -1 for others. */
    private static int zeroPoint(String operator) {
        return operator.equals("MatMulInteger") ? 3 : operator.equals("MatMulIntegerToFloat") ? 5 : -1;
    }

    /** A model without inputs that multiplies the largest bytes, with the zero point that activations have. */
    private static ByteBuffer largest() {
        ProtoPieces graph = new ProtoPieces(NOTHING);
        graph.message(GRAPH_NODE, operator("MatMulInteger", "y", "x", "w", "z"));
        graph.text(GRAPH_NAME, "largest");
        graph.message(OnnxModel.GRAPH_INITIALIZER, tensor("x", UINT8, (byte) 255, LENGTH, 1, LENGTH));
        graph.message(OnnxModel.GRAPH_INITIALIZER, tensor("w", INT8, (byte) 127, LENGTH, LENGTH, 1));
        graph.message(OnnxModel.GRAPH_INITIALIZER, tensor("z", UINT8, (byte) 128, 1));
        ProtoPieces kind = new ProtoPieces(NOTHING);
        kind.number(1, INT32);
        ProtoPieces type = new ProtoPieces(NOTHING);
        type.message(1, kind); // a tensor
        ProtoPieces output = new ProtoPieces(NOTHING);
        output.text(1, "y");
        output.message(2, type);
        graph.message(GRAPH_OUTPUT, output);
        ProtoPieces opset = new ProtoPieces(NOTHING);
        opset.text(1, "");
        opset.number(2, 18);
        ProtoPieces model = new ProtoPieces(NOTHING);
        model.number(MODEL_VERSION, 8);
        model.message(OnnxModel.MODEL_GRAPH, graph);
        model.message(MODEL_OPSET, opset);
        return model.toBuffer();
    }

    private static ProtoPieces operator(String operator, String output, String... inputs) {
        ProtoPieces node = new ProtoPieces(NOTHING);
        for (String input : inputs) {
            node.text(NODE_INPUT, input);
        }
        node.text(NODE_OUTPUT, output);
        node.text(NODE_OPERATOR, operator);
        return node;
    }

    /** A tensor of one value, as often as it has bytes. */
    private static ProtoPieces tensor(String name, int type, byte value, int count, int... dims) {
        ProtoPieces tensor = new ProtoPieces(NOTHING);
        for (int size : dims) {
            tensor.number(OnnxModel.TENSOR_DIMS, size);
        }
        tensor.number(OnnxModel.TENSOR_TYPE, type);
        tensor.text(OnnxModel.TENSOR_NAME, name);
        byte[] raw = new byte[count];
        Arrays.fill(raw, value);
        tensor.bytes(OnnxModel.TENSOR_RAW, raw);
        return tensor;
    }
}
