package org.dgemma.runtime.engine;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import org.dgemma.format.ProtoReader;

/**
 * Says anew where the weights of an ONNX model are that lie outside of its file. Field numbers are those of onnx.proto: tensors
 * are in graphs, those in attributes of nodes again.
 */
final class ExternalData {
    private static final int GRAPH_NODE = 1;
    private static final int NODE_ATTRIBUTE = 5;
    private static final int ATTRIBUTE_GRAPH = 6;
    private static final int ATTRIBUTE_GRAPHS = 11;
    private static final int TENSOR_EXTERNAL = 13;

    private final ByteBuffer model;
    private final Move move;

    private ExternalData(ByteBuffer model, Move move) {
        this.model = model;
        this.move = move;
    }

    /** Changes the entries of a weight: location, offset, length and more. */
    interface Move {
        void apply(Map<String, String> entries) throws IOException;
    }

    /** The model with other entries; of all initializers of one name in a graph the last stays. */
    static ProtoPieces moved(ByteBuffer model, Move move) throws IOException {
        return new ExternalData(model, move).rewritten();
    }

    private ProtoPieces rewritten() throws IOException {
        ProtoPieces out = new ProtoPieces(model);
        for (ProtoReader field = new ProtoReader(model); field.next(); ) {
            if (field.number() == OnnxModel.MODEL_GRAPH) {
                out.message(field.number(), graph(field));
            } else {
                out.keep(field);
            }
        }
        return out;
    }

    private ProtoPieces graph(ProtoReader graph) throws IOException {
        Map<String, Integer> last = new HashMap<>();
        for (ProtoReader field = graph.message(); field.next(); ) {
            if (field.number() == OnnxModel.GRAPH_INITIALIZER) {
                last.put(OnnxModel.name(field.message()), field.start());
            }
        }
        ProtoPieces out = new ProtoPieces(model);
        for (ProtoReader field = graph.message(); field.next(); ) {
            if (field.number() == GRAPH_NODE) {
                out.message(field.number(), node(field));
            } else if (field.number() != OnnxModel.GRAPH_INITIALIZER) {
                out.keep(field);
            } else if (last.get(OnnxModel.name(field.message())) == field.start()) {
                out.message(field.number(), tensor(field));
            }
        }
        return out;
    }

    private ProtoPieces node(ProtoReader node) throws IOException {
        ProtoPieces out = new ProtoPieces(model);
        for (ProtoReader field = node.message(); field.next(); ) {
            if (field.number() != NODE_ATTRIBUTE) {
                out.keep(field);
                continue;
            }
            ProtoPieces attribute = new ProtoPieces(model);
            for (ProtoReader part = field.message(); part.next(); ) {
                if (part.number() == ATTRIBUTE_GRAPH || part.number() == ATTRIBUTE_GRAPHS) {
                    attribute.message(part.number(), graph(part));
                } else {
                    attribute.keep(part);
                }
            }
            out.message(NODE_ATTRIBUTE, attribute);
        }
        return out;
    }

    private ProtoPieces tensor(ProtoReader tensor) throws IOException {
        ProtoPieces out = new ProtoPieces(model);
        Map<String, String> entries = new LinkedHashMap<>();
        for (ProtoReader field = tensor.message(); field.next(); ) {
            if (field.number() == TENSOR_EXTERNAL) {
                String[] pair = {"", ""};
                for (ProtoReader entry = field.message(); entry.next(); ) {
                    if (entry.number() == 1 || entry.number() == 2) {
                        pair[entry.number() - 1] = entry.text();
                    }
                }
                entries.put(pair[0], pair[1]);
            } else {
                out.keep(field);
            }
        }
        if (!entries.isEmpty()) {
            move.apply(entries);
        }
        for (Map.Entry<String, String> entry : entries.entrySet()) {
            ProtoPieces pair = new ProtoPieces(model);
            pair.text(1, entry.getKey());
            pair.text(2, entry.getValue());
            out.message(TENSOR_EXTERNAL, pair);
        }
        return out;
    }
}
