package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Declarations {@code {"type": "function", "function": {"name": …, "description": …, "parameters": …}}}, checked: what is
 * written out of them must have the kinds that JSON schema gives it. It knows nothing of templates.
 */
final class Tools {
    private static final Map<String, String> KINDS = new HashMap<>();

    static {
        KINDS.put("properties", "an object");
        KINDS.put("items", "an object");
        KINDS.put("required", "a list");
        KINDS.put("type", "a string");
    }

    private Tools() {}

    /** Copies, which are JSON values; throws UsageException naming the tool that is wrong. */
    static List<Map<String, @Nullable Object>> checked(@Nullable Object values) {
        if (!(values instanceof List)) {
            throw new UsageException("tools must be a list of declarations");
        }
        List<Map<String, @Nullable Object>> tools = new ArrayList<>();
        for (Object value : (List<?>) values) {
            String where = "tool " + (tools.size() + 1);
            String form = where
                    + ": must be an object such as {\"type\": \"function\", \"function\": {\"name\": \"f\"}}";
            if (!(value instanceof Map)) {
                throw new UsageException(form);
            }
            Map<String, @Nullable Object> tool = ToolCall.object(value, where);
            if (!(tool.get("function") instanceof Map)) {
                throw new UsageException(form);
            }
            Map<?, ?> function = (Map<?, ?>) tool.get("function");
            Object name = function.get("name");
            if (!(name instanceof String) || ((String) name).isEmpty()) {
                throw new UsageException(form);
            }
            if (function.containsKey("description") && !(function.get("description") instanceof String)) {
                throw new UsageException(where + ": description must be a string");
            }
            Object parameters = function.get("parameters");
            if (parameters != null && !(parameters instanceof Map)) {
                throw new UsageException(where + ": parameters must be an object, a JSON schema");
            }
            checkSchema(parameters == null ? Collections.emptyMap() : (Map<?, ?>) parameters, where);
            checkResponse(function.get("response"), where);
            tools.add(tool);
        }
        return Collections.unmodifiableList(tools);
    }

    private static void checkResponse(@Nullable Object response, String where) {
        if (response != null && !(response instanceof Map)) {
            throw new UsageException(where + ": response must be an object");
        }
        for (String key : response == null ? Collections.<String>emptyList() : Arrays.asList("description", "type")) {
            Object text = ((Map<?, ?>) response).get(key);
            if (text != null && !(text instanceof String)) {
                throw new UsageException(where + ": " + key + " of the response must be a string");
            }
        }
    }

    private static void checkSchema(Map<?, ?> schema, String where) {
        for (String key : Arrays.asList("properties", "items", "required", "type")) {
            Object value = schema.get(key);
            boolean right = value == null || KINDS.get(key).equals("an object") && value instanceof Map
                    || key.equals("required") && value instanceof List || key.equals("type") && value instanceof String;
            if (!right) {
                throw new UsageException(where + ": '" + key + "' of a schema must be " + KINDS.get(key));
            }
        }
        Map<?, ?> properties =
                schema.get("properties") == null ? Collections.emptyMap() : (Map<?, ?>) schema.get("properties");
        for (Object value : properties.values()) {
            if (!(value instanceof Map)) {
                throw new UsageException(where + ": every property must be an object");
            }
            checkSchema((Map<?, ?>) value, where);
        }
        if (schema.get("items") != null) {
            checkSchema((Map<?, ?>) schema.get("items"), where);
        }
    }
}
