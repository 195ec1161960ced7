package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * A conversation put together of a template's pieces: ids of markers (Integer), and text between them (String), up to where
 * the model answers. It knows nothing of tokenizers.
 */
final class Composer {
    static final String NO_THINKING = "this bundle does not support thinking; leave out think";
    static final String NO_SYSTEM = "this bundle does not support system turns; leave out system";
    static final String NO_TOOLS = "this bundle does not support tools; leave out tools";

    private final Roles roles;
    private final boolean think;
    private final List<Map<String, @Nullable Object>> tools;
    private final List<Object> out = new ArrayList<>();

    private Composer(Roles roles, boolean think, List<Map<String, @Nullable Object>> tools) {
        this.roles = roles;
        this.think = think;
        this.tools = tools;
    }

    /**
     * Throws UsageException for what the template cannot write.
     *
     * @param first the first message's number in errors, 0 for a system turn that an option gives
     */
    static List<Object> compose(
            Roles roles, List<Message> messages, boolean think, List<Map<String, @Nullable Object>> tools, int first) {
        Composer composer = new Composer(roles, think, tools);
        boolean opens = !messages.isEmpty() && Messages.OPENING_ROLES.contains(messages.get(0).role);
        Message head = opens ? messages.get(0) : null;
        composer.checkOpening(head, first == 0);
        composer.opening(head);
        composer.turns(messages.subList(opens ? 1 : 0, messages.size()), opens ? first + 1 : first);
        return composer.out;
    }

    private String key(@Nullable Message head) {
        List<String> parts = new ArrayList<>();
        if (head != null) {
            parts.add(head.role);
        }
        if (think) {
            parts.add("think");
        }
        if (!tools.isEmpty()) {
            parts.add("tools");
        }
        return String.join("+", parts);
    }

    /** Whether a conversation can begin so. */
    private void checkOpening(@Nullable Message head, boolean byOption) {
        if (!tools.isEmpty() && roles.tools == null) {
            throw new UsageException(NO_TOOLS);
        }
        if (think && !roles.thinks()) {
            throw new UsageException(NO_THINKING);
        }
        if (head != null && !roles.openings.containsKey(head.role)) {
            throw new UsageException(
                    byOption ? NO_SYSTEM : "message 1: this bundle has no " + head.role + " turn; leave it out");
        }
        if (!roles.openings.containsKey(key(head))) {
            throw new UsageException(
                    "this bundle has no " + key(head).replace("+", " with ") + "; leave one of them out");
        }
    }

    private void opening(@Nullable Message head) {
        List<List<Object>> pieces = roles.openings.get(key(head));
        int next = 0;
        out.addAll(pieces.get(next++));
        if (head != null) {
            out.add(Trim.of(head.text(), roles.openingTrim));
            out.addAll(pieces.get(next++));
        }
        if (!tools.isEmpty() && roles.tools != null) {
            CallWriter writer = new CallWriter(out, roles.tools);
            for (Map<String, ?> tool : tools) {
                out.add(roles.tools.declaration[0]);
                writer.declaration(tool);
                out.add(roles.tools.declaration[1]);
            }
            out.addAll(pieces.get(next));
        }
    }

    private void turns(List<Message> messages, int first) {
        int lastUser = -1;
        for (int i = 0; i < messages.size(); i++) {
            lastUser = messages.get(i).is("user") ? i : lastUser;
        }
        Message spoken = null; // the last message that is no tool's
        boolean results = false; // whether its calls have results
        for (int i = 0; i < messages.size(); i++) {
            Message message = messages.get(i);
            if (message.is("tool")) {
                continue;
            }
            Roles.Turn turn = roles.turns.get(message.role);
            if (turn == null) {
                throw new UsageException("message " + (first + i) + ": this bundle has no " + message.role
                        + " turn here; use " + String.join(", ", roles.turns.keySet()));
            }
            boolean follows = spoken != null && message.is("assistant") && spoken.is("assistant");
            boolean again = results && roles.tools != null ? roles.tools.reopens : roles.joins.equals("no");
            if (!follows || again) {
                out.addAll(turn.before);
            }
            List<Message> following = messages.subList(i + 1, messages.size());
            results = !message.toolCalls.isEmpty() && !following.isEmpty() && following.get(0).is("tool");
            turn(turn, message, following, i > lastUser, results);
            spoken = message;
        }
        if (spoken == null || spoken.toolCalls.isEmpty()) {
            out.addAll(roles.answer.get(think ? "think" : ""));
        } else if (results) {
            out.addAll(roles.answer.getOrDefault(think ? "tool+think" : "tool", Collections.emptyList()));
        }
    }

    /** What a turn holds, and what closes it. */
    private void turn(Roles.Turn turn, Message message, List<Message> following, boolean latest, boolean results) {
        boolean calls = !message.toolCalls.isEmpty();
        if (!message.thinking.isEmpty() && latest
                && (roles.keepsThinking.equals("all") || calls && roles.keepsThinking.equals("calls"))) {
            thought(message.thinking);
        }
        if (calls) {
            calls(message, following);
        }
        String text = message.text();
        if (message.is("assistant") && roles.dropsThoughts && roles.channel != null) {
            text = roles.channel.withoutThoughts(text);
        }
        text = Trim.of(text, turn.trim);
        out.add(text);
        String behind = following.stream().map(other -> other.role).filter(role -> !role.equals("tool")).findFirst()
                .orElse("");
        boolean closes = roles.tools != null && roles.tools.closes;
        if (calls && !results) {
            if (roles.tools != null) {
                out.add(roles.tools.response[0]);
            }
        } else if (message.is("assistant") && behind.equals("assistant") && roles.joins.equals("both")) {
            return;
        } else if (!(results && text.isEmpty() && (behind.isEmpty() || !closes))) {
            out.addAll(turn.after);
        }
    }

    /** A finished thought, nothing where there is no channel. */
    private void thought(String text) {
        if (roles.channel != null) {
            out.add(roles.channel.open);
            out.add(roles.channel.name + text + "\n");
            out.add(roles.channel.close);
        }
    }

    /** Calls, and the results that follow them, as Gemma's template orders them. */
    private void calls(Message message, List<Message> following) {
        if (roles.tools == null) {
            throw new UsageException("this bundle does not support tools; leave tool_calls out");
        }
        CallWriter writer = new CallWriter(out, roles.tools);
        for (ToolCall call : message.toolCalls) {
            out.add(roles.tools.call[0]);
            writer.call(call);
            out.add(roles.tools.call[1]);
        }
        for (Message result : following) {
            if (!result.is("tool")) {
                break;
            }
            String name = result.name == null || result.name.isEmpty() ? "unknown" : result.name;
            for (ToolCall call : message.toolCalls) {
                name = Objects.equals(call.id, result.toolCallId) ? call.name : name;
            }
            out.add(roles.tools.response[0]);
            writer.response(name, result.content);
            out.add(roles.tools.response[1]);
        }
    }
}
