package org.dgemma.runtime;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.jspecify.annotations.Nullable;

/** A call that the model asks for. Immutable; what {@link #arguments} hold must not be changed. */
public final class ToolCall {
    public final String name;
    /** JSON values as {@link Json#parse(byte[])} gives them, in the order of the call. */
    public final Map<String, @Nullable Object> arguments;
    /** What the result names, see {@link Message#tool(String, String)}. */
    public final @Nullable String id;

    /** @param arguments JSON values, as {@link Json#write} takes them; they are copied */
    public ToolCall(String name, Map<String, ?> arguments, @Nullable String id) {
        if (name == null) {
            throw new UsageException("a tool call must have a name");
        }
        this.name = name;
        this.arguments = object(arguments, "arguments of " + Json.repr(name));
        this.id = id;
    }

    /** Of values that nobody else holds. */
    static ToolCall of(String name, Map<String, @Nullable Object> arguments, @Nullable String id) {
        return new ToolCall(id, name, Collections.unmodifiableMap(arguments));
    }

    private ToolCall(@Nullable String id, String name, Map<String, @Nullable Object> arguments) {
        this.name = name;
        this.arguments = arguments;
        this.id = id;
    }

    /** As a message in JSON holds it: {@code {"id", "type", "function": {"name", "arguments"}}}. */
    public Map<String, Object> toMap() {
        Map<String, Object> function = new LinkedHashMap<>();
        function.put("name", name);
        function.put("arguments", arguments);
        Map<String, Object> found = new LinkedHashMap<>();
        if (id != null) {
            found.put("id", id);
        }
        found.put("type", "function");
        found.put("function", function);
        return found;
    }

    /** A copy of an object of JSON values; UsageException, beginning with {@code what}, where it is none. */
    static Map<String, @Nullable Object> object(@Nullable Object value, String what) {
        try {
            Object copy = Json.parse(Json.write(value));
            if (copy instanceof Map) {
                Map<String, @Nullable Object> members = new LinkedHashMap<>();
                ((Map<?, ?>) copy).forEach((key, member) -> members.put((String) key, member));
                return Collections.unmodifiableMap(members);
            }
        } catch (JsonException error) {
            throw new UsageException(what + " must be an object of JSON values (" + error.getMessage() + ")", error);
        }
        throw new UsageException(what + " must be an object of JSON values");
    }
}
