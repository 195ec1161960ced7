package org.dgemma.runtime;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.tokenizer.Tokenizer;
import org.dgemma.tokenizer.Tokenizers;

/** The toy bundle with a chat template and the tokenizer of tests/vectors/conversations.json: it thinks and calls tools. */
final class Speaking {
    static final int VOCAB = 704;
    static final int THINK = 100;
    static final int END = 101;
    static final int CALL = 48;
    static final int CALLED = 49;
    static final int RESPONSE = 50;
    static final int QUOTE = 52;
    static final int STOP = 106;

    private Speaking() {}

    @SuppressWarnings("unchecked")
    static File write(Map<String, Object> vectors, Object chat) throws Exception {
        return ToyBundle.write(values -> {
            Map<String, Object> model = (Map<String, Object>) values.get("model");
            model.put("vocab_size", VOCAB);
            model.put("eos_token_ids", vectors.get("stops"));
            values.put("chat", chat);
            values.put("context", 512);
            Map<String, Object> dims = (Map<String, Object>) values.get("dims");
            dims.put("S", Arrays.asList(1, 512));
            dims.put("L", Arrays.asList(1, 512));
        });
    }

    static Tokenizer tokenizer(Map<String, Object> vectors, Manifest manifest) throws Exception {
        File file = File.createTempFile("tokenizer", ".json");
        try {
            Files.write(file.toPath(), Json.write(vectors.get("tokenizer")).getBytes(StandardCharsets.UTF_8));
            return Tokenizers.load(file, "tokenizers", Chat.markerIds(manifest));
        } finally {
            file.delete();
        }
    }

    static int[] ints(Object listed) {
        return ((List<?>) listed).stream().mapToInt(id -> ((Long) id).intValue()).toArray();
    }
}
