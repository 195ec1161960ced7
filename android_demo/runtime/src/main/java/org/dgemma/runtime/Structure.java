package org.dgemma.runtime;

import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.jspecify.annotations.Nullable;

/**
 * What an answer may be: a text that a regular expression matches, JSON of a schema, or one of a few choices. Immutable. Build
 * it once: what was compiled for one is kept for equal ones.
 */
public final class Structure {
    private static final int SHOWN = 60; // characters in a message

    /** Of the whole answer; null for none. */
    public final @Nullable String regex;
    /** Its JSON text; null for none. */
    public final @Nullable String jsonSchema;
    /** The answers that are possible; empty for none. */
    public final List<String> choices;

    private Structure(@Nullable String regex, @Nullable String jsonSchema, List<String> choices) {
        this.regex = regex;
        this.jsonSchema = jsonSchema;
        this.choices = choices;
    }

    /**
     * The whole answer matches an expression.
     *
     * @param regex in the syntax of Rust's regex crate, without look-around, backreferences, anchors, flags, Unicode classes by
     *     name and operations on classes; refused with a UsageException when the generation begins
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

    /** The word that errors have for it: regex, jsonSchema or choices. */
    public String name() {
        return regex != null ? "regex" : jsonSchema != null ? "jsonSchema" : "choices";
    }

    @Override
    public boolean equals(@Nullable Object other) {
        if (!(other instanceof Structure)) {
            return false;
        }
        Structure that = (Structure) other;
        return Objects.equals(regex, that.regex) && Objects.equals(jsonSchema, that.jsonSchema)
                && choices.equals(that.choices);
    }

    @Override
    public int hashCode() {
        return Objects.hash(regex, jsonSchema, choices);
    }

    @Override
    public String toString() {
        String text = regex != null ? regex : jsonSchema != null ? jsonSchema : String.join("|", choices);
        return name() + " " + Json.repr(text, SHOWN) + (text.codePointCount(0, text.length()) > SHOWN ? "…" : "");
    }
}
