package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.dgemma.format.Json;
import org.jspecify.annotations.Nullable;

/**
 * Writes tools as Gemma's chat template does, {@code call:NAME{key:value,…}}, into a list of text and of marker ids.
 * Texts are between quote ids, so that no text can end early.
 */
final class CallWriter {
    private static final List<String> STANDARD =
            Arrays.asList("description", "type", "properties", "required", "nullable");

    private final List<Object> out;
    private final int quote;
    private final String none;

    CallWriter(List<Object> out, Roles.ToolForm form) {
        this.out = out;
        this.quote = form.quote;
        this.none = form.none;
    }

    /** One function, as {@link Tools} takes it. */
    void declaration(Map<String, ?> tool) {
        Map<?, ?> function = object(tool.get("function"));
        out.add("declaration:" + function.get("name") + "{description:");
        quoted(function.containsKey("description") ? (String) function.get("description") : "");
        Map<?, ?> parameters = object(function.get("parameters"));
        if (!parameters.isEmpty()) {
            out.add(",parameters:{");
            if (Truth.of(parameters.get("properties"))) {
                out.add("properties:{");
                properties(object(parameters.get("properties")));
                out.add("},");
            }
            if (Truth.of(parameters.get("required"))) {
                required(parameters.get("required"));
                out.add(",");
            }
            if (Truth.of(parameters.get("type"))) {
                out.add("type:");
                quoted(upper((String) parameters.get("type")));
                out.add("}");
            }
        }
        if (function.containsKey("response")) {
            Map<?, ?> response = object(function.get("response"));
            out.add(",response:{");
            if (Truth.of(response.get("description"))) {
                out.add("description:");
                quoted((String) response.get("description"));
                out.add(",");
            }
            if ("OBJECT".equals(upper(text(response, "type")))) {
                out.add("type:");
                quoted("OBJECT");
                out.add("}");
            }
        }
        out.add("}");
    }

    /** A call, as the model writes it. */
    void call(ToolCall call) {
        out.add("call:" + call.name + "{");
        entries(call.arguments, false);
        out.add("}");
    }

    /** A tool's result: an object, or a text, which becomes its {@code value}. */
    void response(String name, Object result) {
        out.add("response:" + name + "{");
        entries(result instanceof Map ? (Map<?, ?>) result : Collections.singletonMap("value", result), false);
        out.add("}");
    }

    private void quoted(String text) {
        out.add(quote);
        out.add(text);
        out.add(quote);
    }

    private void entries(Map<?, ?> values, boolean quotedKeys) {
        String separator = "";
        for (String key : sorted(values)) {
            out.add(separator);
            if (quotedKeys) {
                quoted(key);
            } else {
                out.add(key);
            }
            out.add(":");
            value(values.get(key), quotedKeys);
            separator = ",";
        }
    }

    private void value(@Nullable Object value, boolean quotedKeys) {
        if (value instanceof String) {
            quoted((String) value);
        } else if (value instanceof Map) {
            out.add("{");
            entries((Map<?, ?>) value, quotedKeys);
            out.add("}");
        } else if (value instanceof List) {
            out.add("[");
            String separator = "";
            for (Object item : (List<?>) value) {
                out.add(separator);
                value(item, quotedKeys);
                separator = ",";
            }
            out.add("]");
        } else {
            out.add(value == null ? none : value instanceof Double ? Json.repr((Double) value) : value.toString());
        }
    }

    private void required(@Nullable Object names) {
        List<Object> texts = new ArrayList<>();
        for (Object name : names instanceof List ? (List<?>) names : Collections.singletonList(names)) {
            texts.add(plain(name));
        }
        out.add("required:");
        value(texts, true);
    }

    private void properties(Map<?, ?> properties) {
        String separator = "";
        for (String key : sorted(properties)) {
            out.add(separator + key + ":{");
            property(properties.get(key));
            separator = ",";
        }
    }

    private void property(@Nullable Object property) {
        Map<?, ?> schema = object(property);
        String kind = upper(text(schema, "type"));
        if (Truth.of(schema.get("description"))) {
            out.add("description:");
            quoted(plain(schema.get("description")));
            out.add(",");
        }
        if (kind.equals("STRING") && Truth.of(schema.get("enum"))) {
            out.add("enum:");
            value(schema.get("enum"), true);
            out.add(",");
        }
        if (kind.equals("ARRAY") && !object(schema.get("items")).isEmpty()) {
            out.add("items:{");
            items(object(schema.get("items")));
            out.add("},");
        }
        if (Truth.of(schema.get("nullable"))) {
            out.add("nullable:true,");
        }
        if (kind.equals("OBJECT") && property instanceof Map) {
            out.add("properties:{");
            properties(schema.get("properties") instanceof Map ? object(schema.get("properties")) : own(schema));
            out.add("},");
            if (Truth.of(schema.get("required"))) {
                required(schema.get("required"));
                out.add(",");
            }
        }
        out.add("type:");
        quoted(kind);
        out.add("}");
    }

    /** An object's schema without {@code properties} may have them among its own keys. */
    private static Map<?, ?> own(Map<?, ?> schema) {
        Map<Object, Object> found = new LinkedHashMap<>(schema);
        found.keySet().removeAll(STANDARD);
        return found;
    }

    private void items(Map<?, ?> items) {
        String separator = "";
        for (String key : sorted(items)) {
            Object value = items.get(key);
            if (value == null) {
                continue;
            }
            out.add(separator);
            separator = ",";
            if (key.equals("properties")) {
                out.add("properties:{");
                properties(object(value));
                out.add("}");
            } else if (key.equals("required")) {
                required(value);
            } else {
                out.add(key + ":");
                value(key.equals("type") && value instanceof String ? upper((String) value) : value, true);
            }
        }
    }

    /** As jinja's dictsort: by key, without regard to case; keys that differ in case alone stay in their order. */
    private static List<String> sorted(Map<?, ?> values) {
        List<String> keys = new ArrayList<>();
        values.keySet().forEach(key -> keys.add((String) key));
        keys.sort((a, b) -> byCodePoint(a.toLowerCase(Locale.ROOT), b.toLowerCase(Locale.ROOT)));
        return keys;
    }

    private static int byCodePoint(String a, String b) {
        int[] left = a.codePoints().toArray();
        int[] right = b.codePoints().toArray();
        for (int i = 0; i < Math.min(left.length, right.length); i++) {
            if (left[i] != right[i]) {
                return Integer.compare(left[i], right[i]);
            }
        }
        return Integer.compare(left.length, right.length);
    }

    private static Map<?, ?> object(@Nullable Object value) {
        return value instanceof Map ? (Map<?, ?>) value : Collections.emptyMap();
    }

    private static String text(Map<?, ?> schema, String key) {
        return schema.containsKey(key) ? plain(schema.get(key)) : "";
    }

    /** As Python's {@code str}; what JSON schema has as text must not be an object or a list. */
    private static String plain(@Nullable Object value) {
        if (value instanceof Map || value instanceof List) {
            throw new UsageException("a type, a description or a required name in a tool's schema must be a string");
        }
        if (value instanceof Boolean) {
            return (Boolean) value ? "True" : "False";
        }
        return value == null ? "None" : value instanceof Double ? Json.repr((Double) value) : value.toString();
    }

    private static String upper(String text) {
        return text.toUpperCase(Locale.ROOT);
    }
}
