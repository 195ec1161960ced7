package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** One turn of a conversation. Immutable; {@link Messages} reads them from JSON. */
public final class Message {
    static final List<String> ROLES = Arrays.asList("system", "developer", "user", "assistant", "tool");

    /** system, developer, user, assistant or tool. */
    public final String role;
    /** A text; a tool's may be a Map of JSON values. */
    public final Object content;
    /** Of an assistant's turn. */
    public final List<ToolCall> toolCalls;
    /** Of a tool's turn: the call that it is the result of. */
    public final @Nullable String toolCallId;
    /** Of a tool's turn: the tool, where {@link #toolCallId} names no call. */
    public final @Nullable String name;
    /** What an assistant thought; left out of the prompt once another user's turn follows. */
    public final String thinking;

    Message(
            String role, Object content, List<ToolCall> toolCalls, @Nullable String toolCallId, @Nullable String name,
            String thinking) {
        if (content == null || thinking == null) {
            throw new UsageException("the " + (content == null ? "content" : "thinking") + " of a message must be a string");
        }
        this.role = role;
        this.content = content;
        this.toolCalls = Collections.unmodifiableList(new ArrayList<>(toolCalls));
        this.toolCallId = toolCallId;
        this.name = name;
        this.thinking = thinking;
    }

    private static Message of(String role, Object content) {
        return new Message(role, content, Collections.emptyList(), null, null, "");
    }

    public static Message system(String text) {
        return of("system", text);
    }

    public static Message developer(String text) {
        return of("developer", text);
    }

    public static Message user(String text) {
        return of("user", text);
    }

    public static Message assistant(String text) {
        return of("assistant", text);
    }

    /** The result of a call, as text. */
    public static Message tool(@Nullable String callId, String result) {
        return new Message("tool", result, Collections.emptyList(), callId, null, "");
    }

    /** As above, an object of JSON values, which are copied. */
    public static Message tool(@Nullable String callId, Map<String, ?> result) {
        Object content = ToolCall.object(result, "the content of a tool's message");
        return new Message("tool", content, Collections.emptyList(), callId, null, "");
    }

    public Message toolCalls(List<ToolCall> value) {
        if (!role.equals("assistant") && !value.isEmpty()) {
            throw new UsageException("tool calls belong in an assistant's message, not in one of role " + role);
        }
        return new Message(role, content, value, toolCallId, name, thinking);
    }

    public Message thinking(String value) {
        return new Message(role, content, toolCalls, toolCallId, name, value);
    }

    /** Of the tool that a tool's message is from. */
    public Message name(@Nullable String value) {
        return new Message(role, content, toolCalls, toolCallId, value, thinking);
    }

    boolean is(String one) {
        return role.equals(one);
    }

    /** Empty where the content is an object. */
    String text() {
        return content instanceof String ? (String) content : "";
    }
}
