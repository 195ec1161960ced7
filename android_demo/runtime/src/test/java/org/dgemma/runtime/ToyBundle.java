package org.dgemma.runtime;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.dgemma.format.Json;

/**
 * A valid bundle of a toy model (see {@link ToyEngine}) without a tokenizer, as tests/support/fake_bundle.py makes one.
 */
final class ToyBundle {
    static final int VOCAB = 618;
    static final int N = 16;
    static final int STEPS = 6;
    static final int CONTEXT = 192;
    static final int CHUNK = 24;
    static final int HIDDEN = 8;
    static final int LAYERS = 2;
    static final int PAD = 0;
    static final int EOS = 1;
    static final int BOS = 2;
    static final int START_OF_TURN = 4;
    static final int END_OF_TURN = 5;
    /** A line break, the template's last id. */
    static final int START = 6;
    static final int WINDOW = 8;
    static final int USER = 100;
    static final int MODEL = 101;

    private ToyBundle() {}

    static long heads(int layer) {
        return layer == 0 ? 2 : 1;
    }

    static long dim(int layer) {
        return layer == 0 ? 2 : 4;
    }

    static File write() throws IOException {
        return write(manifest -> {});
    }

    /** In a temporary folder that is deleted when the JVM ends; {@code change} may change the manifest. */
    static File write(Consumer<Map<String, Object>> change) throws IOException {
        Path folder = Files.createTempDirectory("toy");
        folder.toFile().deleteOnExit();
        Map<String, Object> manifest = manifest();
        Map<String, Object> files = new LinkedHashMap<>();
        Files.createDirectory(folder.resolve("onnx"));
        for (String graph : Arrays.asList("encode", "denoise", "denoise_active", "generate", "decode", "check")) {
            byte[] content = ("toy graph " + graph).getBytes(StandardCharsets.UTF_8);
            Path file = folder.resolve("onnx/" + graph + ".bin");
            Files.write(file, content);
            files.put("onnx/" + graph + ".bin", object("size", content.length, "sha256", sha256(content)));
        }
        manifest.put("files", files);
        change.accept(manifest);
        manifest.put("digest", sha256(Json.canonical(manifest)));
        Files.write(folder.resolve("manifest.json"), Json.write(manifest).getBytes(StandardCharsets.UTF_8));
        try (Stream<Path> made = Files.walk(folder)) {
            made.filter(path -> !path.equals(folder)).forEach(path -> path.toFile().deleteOnExit());
        }
        return folder.toFile();
    }

    private static Map<String, Object> manifest() {
        return object(
                "format_version", 2, "engines", object("onnx", "1.0"),
                "model", object(
                        "vocab_size", VOCAB, "hidden_size", HIDDEN, "intermediate_size", 8, "num_layers", LAYERS,
                        "num_heads", 2, "num_kv_heads", 2, "head_dim", 2,
                        "global_num_kv_heads", 1, "global_head_dim", 4,
                        "sliding_window", WINDOW, "canvas_length", N, "eos_token_ids", Arrays.asList(EOS, END_OF_TURN),
                        "layer_types", Arrays.asList("sliding_attention", "full_attention")),
                "tokenizer", null,
                "chat", object(
                        "start", Arrays.asList(BOS), "user_prefix", Arrays.asList(START_OF_TURN, USER),
                        "user_suffix", Arrays.asList(END_OF_TURN, START),
                        "model_prefix", Arrays.asList(START_OF_TURN, MODEL, START),
                        "model_suffix", Arrays.asList(START)),
                "canvas_length", N, "steps", STEPS, "context", CONTEXT, "chunk", CHUNK,
                "sampler", object("steps", STEPS), "noise", object("rows", STEPS),
                "dims", object(
                        "S", Arrays.asList(1, CONTEXT), "L", Arrays.asList(1, CONTEXT), "C", Arrays.asList(1, CHUNK),
                        "R", Arrays.asList(1, CHUNK), "A", Arrays.asList(1, N)),
                "graphs", object("onnx", graphs()), "quantization", object("recipe", "fp32"),
                "tools", object("dgemma", "0"), "provenance", object("licence", "none"));
    }

    private static Map<String, Object> graphs() {
        List<Object> prefix = new ArrayList<>();
        List<Object> fresh = new ArrayList<>();
        List<Object> active = new ArrayList<>();
        for (int layer = 0; layer < LAYERS; layer++) {
            for (String kind : Arrays.asList("key", "value")) {
                prefix.add(spec("prefix_" + kind + "_" + layer, "float32", 1, layer == 0 ? "L" : "S", heads(layer),
                        dim(layer)));
                fresh.add(spec("new_" + kind + "_" + layer, "float32", 1, "C", heads(layer), dim(layer)));
                active.add(spec("new_" + kind + "_" + layer, "float32", 1, "A", heads(layer), dim(layer)));
            }
        }
        List<Object> tokens = Arrays.asList(
                spec("tokens", "int64", 1, "C"), spec("start", "int64", 1), spec("count", "int64", 1));
        List<Object> rows = Arrays.asList(
                spec("tokens", "int64", 1, "C"), spec("start", "int64", 1), spec("rows", "int64", "R"));
        Object canvas = spec("canvas", "int64", 1, N);
        Object length = spec("prefix_length", "int64", 1);
        return object(
                "encode", graph("encode", join(tokens, prefix), fresh),
                "denoise", graph("denoise", join(Arrays.asList(
                        canvas, spec("soft", "float32", 1, N, HIDDEN), spec("words", "int64", 2, N),
                        spec("temperature", "float32", 1), length), prefix), sampled(N)),
                "denoise_active", graph("denoise_active", join(Arrays.asList(
                        spec("canvas", "int64", 1, "A"), spec("positions", "int64", 1, "A"),
                        spec("soft", "float32", 1, "A", HIDDEN), spec("words", "int64", 2, "A"),
                        spec("temperature", "float32", 1), length, spec("settled", "bool", 1, N)), prefix),
                        join(sampled("A"), active)),
                "generate", graph("generate", join(Arrays.asList(
                        canvas, spec("words", "int64", STEPS, 2, N), spec("adaptive", "bool", 1), length), prefix),
                        Arrays.asList(
                        spec("committed", "int64", 1, N), spec("steps", "int64", 1),
                        spec("argmaxes", "int64", STEPS, N),
                        spec("canvases", "int64", STEPS, N), spec("entropies", "float32", STEPS, N),
                        spec("accepts", "bool", STEPS, N))),
                "decode", graph("decode", join(tokens, prefix),
                        join(Arrays.asList(spec("next_token", "int64", 1)), fresh)),
                "check", graph("check", join(rows, prefix),
                        join(Arrays.asList(spec("next_tokens", "int64", 1, "R")), fresh)));
    }

    private static List<Object> sampled(Object rows) {
        return Arrays.asList(
                spec("next_canvas", "int64", 1, rows), spec("argmax", "int64", 1, rows), spec("entropy", "float32", 1, rows),
                spec("accepted", "bool", 1, rows), spec("next_soft", "float32", 1, rows, HIDDEN),
                spec("drawn", "int64", 1, rows), spec("likeliest", "int64", 1, rows, 16),
                spec("log_probs", "float32", 1, rows, 16));
    }

    private static Map<String, Object> graph(String name, List<Object> inputs, List<Object> outputs) {
        return object("file", "onnx/" + name + ".bin", "method", null, "inputs", inputs, "outputs", outputs);
    }

    private static Map<String, Object> spec(String name, String dtype, Object... shape) {
        return object("name", name, "dtype", dtype, "shape", Arrays.asList(shape));
    }

    private static List<Object> join(List<Object> a, List<Object> b) {
        List<Object> all = new ArrayList<>(a);
        all.addAll(b);
        return all;
    }

    static Map<String, Object> object(Object... pairs) {
        Map<String, Object> found = new LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            found.put((String) pairs[i], pairs[i + 1]);
        }
        return found;
    }

    private static String sha256(byte[] content) {
        try {
            StringBuilder text = new StringBuilder();
            for (byte b : MessageDigest.getInstance("SHA-256").digest(content)) {
                text.append(String.format("%02x", b));
            }
            return text.toString();
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError(error);
        }
    }
}
