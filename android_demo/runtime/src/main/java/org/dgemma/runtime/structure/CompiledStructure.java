package org.dgemma.runtime.structure;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/**
 * The automaton of a language over bytes, as a file, and what it was compiled from; docs/reference/structure.md has the format.
 * Equal ones have the same bytes. It knows bytes and states, and nothing of tokenizers. S states.
 */
public final class CompiledStructure {
    private static final int FORMAT = 1;
    private static final int LARGEST = 32 << 20; // bytes
    private static final int LONGEST_HEAD = 4 << 20;
    private static final int CHECKSUM = 32;
    /** Bytes of text are below. */
    private static final int TEXT = 0xF5;
    private static final int MARKERS = 3;
    private static final String KEY = "dgemma_structure";
    private static final Map<String, List<String>> KINDS = new LinkedHashMap<>();

    static {
        KINDS.put("regex", Collections.emptyList());
        KINDS.put("json_schema", Collections.emptyList());
        KINDS.put("grammar", Collections.singletonList("grammar_depth"));
        KINDS.put("choices", Collections.singletonList("choices"));
        KINDS.put("call", Arrays.asList("form", "null", "tools"));
    }

    /** What it was compiled from: regex, json_schema, grammar, choices or call. */
    public final String kind;
    /** The answers that are possible; empty where it is not of choices. */
    public final List<String> choices;
    private final byte[] data;
    private final Map<?, ?> head;
    private final int line; // bytes of it
    private final ByteAutomaton automaton;

    private CompiledStructure(byte[] data) {
        this.data = data;
        int end = 0;
        while (end < Math.min(data.length, LONGEST_HEAD) && data[end] != '\n') {
            end++;
        }
        line = end;
        head = head(Arrays.copyOf(data, end));
        check(data);
        kind = kind(head);
        choices = kind.equals("choices") ? texts(head, "choices") : Collections.emptyList();
        int states = ((Long) head.get("states")).intValue();
        int length = Math.max(0, data.length - CHECKSUM - end - 1);
        ByteBuffer body = ByteBuffer.wrap(data, Math.min(end + 1, data.length), length).order(ByteOrder.LITTLE_ENDIAN);
        automaton = new TransitionReader(states, TEXT + (isCall() ? MARKERS : 0)).read(body);
    }

    /**
     * Of a file's bytes, all of which are checked; the stream is read to its end, and left open.
     *
     * @throws UsageException what is wrong with it, and the cure
     * @throws IOException of the stream
     */
    public static CompiledStructure read(InputStream in) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        byte[] block = new byte[8192];
        for (int count = in.read(block); count >= 0; count = in.read(block)) {
            bytes.write(block, 0, count);
            if (bytes.size() > LARGEST) {
                throw new UsageException(
                        "has more than " + (LARGEST >> 20) + " MB, so it is no compiled structure; name another file");
            }
        }
        return new CompiledStructure(bytes.toByteArray());
    }

    static UsageException damaged(String why) {
        return new UsageException("is damaged: " + why + "; compile it again");
    }

    private static Map<?, ?> head(byte[] line) {
        Object value = null;
        try {
            value = Json.parse(line);
        } catch (JsonException error) {
            // is none
        }
        if (!(value instanceof Map) || !((Map<?, ?>) value).containsKey(KEY)) {
            throw new UsageException("is not a compiled structure; `dgemma structure` writes one");
        }
        Object format = ((Map<?, ?>) value).get(KEY);
        if (!Long.valueOf(FORMAT).equals(format)) {
            String has = String.valueOf(format);
            throw new UsageException("has format " + has.substring(0, Math.min(20, has.length())) + ", and this version reads "
                    + FORMAT + "; compile it again with this version");
        }
        return (Map<?, ?>) value;
    }

    private static void check(byte[] data) {
        try {
            MessageDigest sum = MessageDigest.getInstance("SHA-256");
            int end = Math.max(0, data.length - CHECKSUM);
            sum.update(data, 0, end);
            if (!Arrays.equals(sum.digest(), Arrays.copyOfRange(data, end, data.length))) {
                throw damaged("its checksum is wrong");
            }
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error); // every JVM has it
        }
    }

    /** Checks keys and values as well. */
    private static String kind(Map<?, ?> head) {
        List<String> more = head.get("kind") instanceof String ? KINDS.get(head.get("kind")) : null;
        if (more == null) {
            throw damaged("its kind is none of " + String.join(", ", KINDS.keySet()));
        }
        List<String> keys = new ArrayList<>(Arrays.asList(KEY, "kind", "source", "states"));
        keys.addAll(more);
        if (head.size() != keys.size() || !head.keySet().containsAll(keys)) {
            throw damaged("its head must have " + String.join(", ", keys));
        }
        for (String key : keys) {
            boolean isNumber = Arrays.asList(KEY, "states", "grammar_depth").contains(key);
            if (key.equals("choices") || key.equals("tools")) {
                texts(head, key);
            } else if (isNumber ? !(head.get(key) instanceof Long) : !(head.get(key) instanceof String)) {
                throw damaged(key + " is no " + (isNumber ? "int" : "str"));
            }
        }
        long states = (Long) head.get("states");
        if (states < 1 || states > ByteAutomaton.MOST_STATES) {
            throw damaged("it must have 1 to " + ByteAutomaton.MOST_STATES + " states");
        }
        if (!((String) head.get("source")).matches("[0-9a-f]{64}")) {
            throw damaged("its source is no SHA-256");
        }
        return (String) head.get("kind");
    }

    private static List<String> texts(Map<?, ?> head, String key) {
        if (!(head.get(key) instanceof List)) {
            throw damaged(key + " is no list");
        }
        List<String> found = new ArrayList<>();
        for (Object each : (List<?>) head.get(key)) {
            if (!(each instanceof String) || ((String) each).isEmpty()) {
                throw damaged(key + " must be texts");
            }
            found.add((String) each);
        }
        if (found.isEmpty()) {
            throw damaged(key + " must be texts");
        }
        return Collections.unmodifiableList(found);
    }

    /** Whether an answer is a call of a tool. */
    public boolean isCall() {
        return kind.equals("call");
    }

    /**
     * For a model that writes calls in a form; null where it writes none.
     *
     * @throws UsageException it is a call, and the model does not write that
     */
    ByteAutomaton automaton(@Nullable CallForm form) {
        if (isCall() && form == null) {
            throw new UsageException(
                    "structure is a call of a tool, and this bundle does not support tools; use another bundle");
        }
        if (isCall() && form != null && !(form.form.equals(head.get("form")) && form.none.equals(head.get("null")))) {
            throw new UsageException("structure is a call as another bundle writes it; compile it for this bundle");
        }
        return automaton;
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return other instanceof CompiledStructure && Arrays.equals(data, ((CompiledStructure) other).data);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(Arrays.copyOfRange(data, data.length - CHECKSUM, data.length));
    }

    /** Its first line. */
    @Override
    public String toString() {
        return new String(data, 0, line, StandardCharsets.UTF_8);
    }
}
