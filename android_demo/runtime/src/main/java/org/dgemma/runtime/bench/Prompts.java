package org.dgemma.runtime.bench;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.runtime.Manifest;

/** Groups of real prompts that suit a bundle: the shipped model's held-out tasks; for other models none. */
final class Prompts {
    private Prompts() {}

    /** A text for the chat template, and the right answer. */
    static final class Prompt {
        final String text;
        final String answer;

        Prompt(String text, String answer) {
            this.text = text;
            this.answer = answer;
        }
    }

    static Map<String, List<Prompt>> of(Manifest manifest) {
        boolean shipped = "tiny".equals(manifest.provenance.get("name"));
        if (!shipped || manifest.provenance.containsKey("random_weights") || manifest.tokenizer == null
                || manifest.chat == null) {
            return Collections.emptyMap();
        }
        Map<String, List<Prompt>> found = new LinkedHashMap<>();
        Map<?, ?> text = (Map<?, ?>) Json.parse(resource("prompts.json"));
        Map<?, ?> tasks = (Map<?, ?>) text.get("tasks");
        for (Map.Entry<?, ?> group : ((Map<?, ?>) text.get("groups")).entrySet()) {
            List<Prompt> prompts = new ArrayList<>();
            for (Object task : (List<?>) group.getValue()) {
                for (Object item : (List<?>) tasks.get(task)) {
                    List<?> pair = (List<?>) item;
                    prompts.add(new Prompt((String) pair.get(0), (String) pair.get(1)));
                }
            }
            found.put((String) group.getKey(), prompts);
        }
        return found;
    }

    private static byte[] resource(String name) {
        try (InputStream stream = Prompts.class.getResourceAsStream(name)) {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            byte[] block = new byte[8192];
            for (int count = stream.read(block); count >= 0; count = stream.read(block)) {
                bytes.write(block, 0, count);
            }
            return bytes.toByteArray();
        } catch (IOException error) {
            throw new IllegalStateException("cannot read the resource " + name + " of the library", error);
        }
    }
}
