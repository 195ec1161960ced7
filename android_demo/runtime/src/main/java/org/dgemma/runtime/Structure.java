package org.dgemma.runtime;

import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.dgemma.format.FileText;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.dgemma.runtime.structure.CompiledStructure;
import org.jspecify.annotations.Nullable;

/**
 * What an answer may be: a text that a regular expression matches, JSON of a schema, one of a few choices, or what was
 * compiled to a file: any of these as Python has them, a text of a grammar, or a call of a tool. Immutable. Build it once: what
 * was compiled for one is kept for equal ones.
 */
public final class Structure {
    private static final int SHOWN = 60; // characters in a message

    /** Of the whole answer; null for none. */
    public final @Nullable String regex;
    /** Its JSON text; null for none. */
    public final @Nullable String jsonSchema;
    /** The answers that are possible; empty for none. */
    public final List<String> choices;

    /** What a file holds; null for none. Its choices are {@link #choices}. */
    public final @Nullable CompiledStructure compiled;

    private Structure(@Nullable String regex, @Nullable String jsonSchema, List<String> choices) {
        this.regex = regex;
        this.jsonSchema = jsonSchema;
        this.choices = choices;
        compiled = null;
    }

    private Structure(CompiledStructure compiled) {
        regex = null;
        jsonSchema = null;
        choices = compiled.choices;
        this.compiled = compiled;
    }

    /**
     * What {@code dgemma structure} has compiled. The stream is read to its end, and left open.
     *
     * @throws UsageException it is damaged, of another version, or something else
     * @throws IOException of the stream
     */
    public static Structure read(InputStream in) throws IOException {
        try {
            return new Structure(CompiledStructure.read(in));
        } catch (UsageException error) {
            throw new UsageException("structure " + error.getMessage(), error);
        }
    }

    /**
     * As above, of a file.
     *
     * @throws UsageException also where it cannot be read
     */
    public static Structure read(File file) {
        try (InputStream in = Files.newInputStream(file.toPath())) {
            return new Structure(CompiledStructure.read(in));
        } catch (UsageException error) {
            throw new UsageException("structure " + file + ": " + error.getMessage(), error);
        } catch (IOException error) {
            throw new UsageException("structure " + file + ": cannot be read (" + FileText.why(error)
                    + "); name a file that `dgemma structure` has written", error);
        }
    }

    /**
     * The whole answer matches an expression.
     *
     * @param regex in the syntax of Rust's regex crate, without look-around, backreferences, anchors, flags, Unicode classes by
     *     name and operations on classes. Refused with a UsageException when the generation begins. The last three work in a
     *     file that {@code dgemma structure} has compiled.
     */
    public static Structure regex(String regex) {
        return new Structure(Objects.requireNonNull(regex), null, Collections.emptyList());
    }

    /**
     * The answer is JSON that follows a schema, on one line, with properties in the schema's order.
     *
     * @param schema JSON text
     * @throws UsageException it is not JSON, or no object; what a schema has that cannot be enforced is refused when the
     *     generation begins
     */
    public static Structure jsonSchema(String schema) {
        try {
            return ofSchema(Json.parse(schema));
        } catch (JsonException error) {
            throw new UsageException("jsonSchema is not JSON (" + error.getMessage() + "); give a schema object", error);
        }
    }

    /** As above, of JSON values, whose order counts. */
    public static Structure jsonSchema(Map<String, ?> schema) {
        return ofSchema(schema);
    }

    private static Structure ofSchema(@Nullable Object value) {
        String text;
        try {
            text = Json.text(value);
        } catch (JsonException error) {
            throw new UsageException("jsonSchema is not JSON (" + error.getMessage() + "); give a schema object", error);
        }
        if (!(value instanceof Map || value instanceof Boolean)) {
            throw new UsageException("jsonSchema must be an object, not " + text.substring(0, Math.min(SHOWN, text.length())));
        }
        return new Structure(null, text, Collections.emptyList());
    }

    /**
     * The answer is one of these texts.
     *
     * @throws UsageException fewer than 2 texts, an empty one, or one that is there twice
     */
    public static Structure choices(String... texts) {
        Set<String> different = new HashSet<>();
        for (String text : texts) {
            if (text == null || text.isEmpty()) {
                throw new UsageException("choices must be non-empty texts");
            }
            if (!different.add(text)) {
                throw new UsageException(
                        "choices have " + Json.repr(text, SHOWN) + " twice; give 2 or more different texts");
            }
        }
        if (texts.length < 2) {
            throw new UsageException("choices" + (texts.length == 0 ? " are missing" : " " + Json.repr(texts[0], SHOWN)
                    + " is the only one") + "; give 2 or more different texts");
        }
        return new Structure(null, null, Collections.unmodifiableList(Arrays.asList(texts.clone())));
    }

    /** Whether an answer is a call of a tool, which is then in {@link Result#toolCalls}. */
    public boolean isCall() {
        return compiled != null && compiled.isCall();
    }

    /** The word that errors have for it: regex, jsonSchema, choices or structure. */
    public String name() {
        return compiled != null ? "structure" : regex != null ? "regex" : jsonSchema != null ? "jsonSchema" : "choices";
    }

    @Override
    public boolean equals(@Nullable Object other) {
        if (!(other instanceof Structure)) {
            return false;
        }
        Structure that = (Structure) other;
        return Objects.equals(regex, that.regex) && Objects.equals(jsonSchema, that.jsonSchema)
                && choices.equals(that.choices) && Objects.equals(compiled, that.compiled);
    }

    @Override
    public int hashCode() {
        return Objects.hash(regex, jsonSchema, choices, compiled);
    }

    @Override
    public String toString() {
        if (compiled != null) {
            return "structure " + compiled;
        }
        String text = regex != null ? regex : jsonSchema != null ? jsonSchema : String.join("|", choices);
        return name() + " " + Json.repr(text, SHOWN) + (text.codePointCount(0, text.length()) > SHOWN ? "…" : "");
    }
}
