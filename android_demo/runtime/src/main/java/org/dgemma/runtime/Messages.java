package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.jspecify.annotations.Nullable;

/**
 * Conversations in the JSON form of OpenAI's API and of transformers: a list of objects with {@code role} and
 * {@code content}, and {@code tool_calls}, {@code tool_call_id}, {@code name} and {@code thinking} where they belong. It
 * knows nothing of templates.
 */
public final class Messages {
    static final List<String> OPENING_ROLES = Arrays.asList("system", "developer");

    private static final List<String> KEYS = Arrays.asList(
            "role", "content", "tool_calls", "tool_call_id", "name", "thinking", "reasoning", "reasoning_content");

    private Messages() {}

    /** The messages of a JSON text; throws UsageException naming the message that is wrong. */
    public static List<Message> read(String json) {
        try {
            return read(Json.parse(json));
        } catch (JsonException error) {
            throw new UsageException(
                    "messages are not JSON (" + error.getMessage() + "); write a list of objects with role and content",
                    error);
        }
    }

    /** As above, of values as {@link Json#parse(String)} gives them. */
    public static List<Message> read(@Nullable Object values) {
        List<Message> messages = new ArrayList<>();
        if (values instanceof List) {
            for (Object value : (List<?>) values) {
                messages.add(message(value, "message " + (messages.size() + 1)));
            }
        }
        return checked(messages);
    }

    /** A conversation of at least one message, where every tool's result follows its call. */
    static List<Message> checked(@Nullable List<Message> messages) {
        if (messages == null || messages.isEmpty()) {
            throw new UsageException("messages must be a list of at least one object with role and content");
        }
        boolean called = false; // the last message that is no tool's has calls
        for (int i = 0; i < messages.size(); i++) {
            Message message = messages.get(i);
            if (message == null) {
                throw new UsageException("message " + (i + 1) + ": must not be null");
            }
            if (message.is("tool") && !called) {
                throw new UsageException(
                        "message " + (i + 1) + ": a tool's result must follow the assistant's message with its call");
            }
            called = message.is("tool") || !message.toolCalls.isEmpty();
        }
        return Collections.unmodifiableList(new ArrayList<>(messages));
    }

    private static Message message(@Nullable Object value, String where) {
        if (!(value instanceof Map)) {
            throw new UsageException(where + ": must be an object with role and content");
        }
        Map<?, ?> members = (Map<?, ?>) value;
        TreeSet<String> unknown = new TreeSet<>();
        members.keySet().forEach(key -> unknown.add(String.valueOf(key)));
        unknown.removeAll(KEYS);
        if (!unknown.isEmpty()) {
            throw new UsageException(where + ": unknown key " + Json.repr(unknown.first()) + "; choose from "
                    + String.join(", ", KEYS));
        }
        Object role = members.get("role");
        if (!(role instanceof String) || !Message.ROLES.contains(role)) {
            throw new UsageException(where + ": role " + shown(role) + " is unknown; choose one of "
                    + String.join(", ", Message.ROLES));
        }
        Object calls = members.get("tool_calls");
        boolean none = !Truth.of(calls);
        if (!none && !(role.equals("assistant") && calls instanceof List)) {
            throw new UsageException(where + ": tool_calls must be a list, in an assistant's message");
        }
        Object content = content(members.get("content"), (String) role, where);
        String thinking = "";
        for (String key : KEYS.subList(3, KEYS.size())) {
            String text = text(members, key, where);
            if (KEYS.indexOf(key) >= KEYS.indexOf("thinking") && text != null && thinking.isEmpty()) {
                thinking = text;
            }
        }
        List<ToolCall> toolCalls = new ArrayList<>();
        for (Object call : none ? Collections.emptyList() : (List<?>) calls) {
            toolCalls.add(call(call, where));
        }
        return new Message((String) role, content, toolCalls, text(members, "tool_call_id", where),
                text(members, "name", where), thinking);
    }

    private static @Nullable String text(Map<?, ?> members, String key, String where) {
        Object text = members.get(key);
        if (text != null && !(text instanceof String)) {
            throw new UsageException(where + ": " + key + " must be a string");
        }
        return (String) text;
    }

    private static Object content(@Nullable Object content, String role, String where) {
        if (content == null && role.equals("assistant")) {
            return "";
        }
        if (content instanceof String) {
            return content;
        }
        if (content instanceof Map && role.equals("tool")) {
            return ToolCall.object(content, where + ": content");
        }
        if (content instanceof List && !((List<?>) content).isEmpty()) {
            return joined((List<?>) content, where);
        }
        throw new UsageException(where + ": content must be a string" + (role.equals("tool") ? " or an object" : ""));
    }

    /** Text of a content's parts {@code {"type": "text", "text": …}}, several each trimmed, as Gemma's template joins them. */
    private static String joined(List<?> parts, String where) {
        StringBuilder all = new StringBuilder();
        for (int i = 0; i < parts.size(); i++) {
            Map<?, ?> part = parts.get(i) instanceof Map ? (Map<?, ?>) parts.get(i) : Collections.emptyMap();
            if (!"text".equals(part.get("type"))) {
                throw new UsageException(where + ": content part " + (i + 1) + " has type " + shown(part.get("type"))
                        + "; only text parts are supported");
            }
            if (!(part.get("text") instanceof String)) {
                throw new UsageException(where + ": text of content part " + (i + 1) + " must be a string");
            }
            String text = (String) part.get("text");
            all.append(parts.size() == 1 ? text : Trim.both(text));
        }
        return all.toString();
    }

    /** Arguments may be an object, or its JSON text, as OpenAI's API gives them. */
    private static ToolCall call(@Nullable Object value, String where) {
        Map<?, ?> members = value instanceof Map ? (Map<?, ?>) value : Collections.emptyMap();
        Map<?, ?> function =
                members.get("function") instanceof Map ? (Map<?, ?>) members.get("function") : Collections.emptyMap();
        if (!(function.get("name") instanceof String)) {
            throw new UsageException(
                    where + ": a tool call must be such as {\"function\": {\"name\": \"f\", \"arguments\": {}}}");
        }
        String name = (String) function.get("name");
        Object arguments = Truth.of(function.get("arguments")) ? function.get("arguments") : Collections.emptyMap();
        String what = where + ": arguments of " + Json.repr(name);
        if (arguments instanceof String) {
            try {
                arguments = Json.parse((String) arguments);
            } catch (JsonException error) {
                throw new UsageException(what + " must be an object of JSON values", error);
            }
        }
        Object id = members.get("id");
        if (id != null && !(id instanceof String)) {
            throw new UsageException(where + ": the id of a tool call must be a string");
        }
        return ToolCall.of(name, ToolCall.object(arguments, what), (String) id);
    }

    private static String shown(@Nullable Object value) {
        return value instanceof String ? Json.repr((String) value) : String.valueOf(value);
    }
}
