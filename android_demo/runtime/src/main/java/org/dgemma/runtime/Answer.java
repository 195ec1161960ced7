package org.dgemma.runtime;

import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** What an answer says: its text, its thoughts, its calls, and what is wrong with it, one line each. */
final class Answer {
    final String text;
    final String thinking;
    final List<ToolCall> toolCalls;
    final List<String> warnings;
    /** It ends inside a thought. */
    final boolean thinks;

    Answer(String text, String thinking, List<ToolCall> toolCalls, List<String> warnings, boolean thinks) {
        this.text = text;
        this.thinking = thinking;
        this.toolCalls = Collections.unmodifiableList(toolCalls);
        this.warnings = Collections.unmodifiableList(warnings);
        this.thinks = thinks;
    }

    static Answer of(String text) {
        return new Answer(text, "", Collections.emptyList(), Collections.emptyList(), false);
    }

    Answer withText(String other) {
        return new Answer(other, thinking, toolCalls, warnings, thinks);
    }

    /** Why an answer that thought has no text, in one line; null where it has text or calls, or has not thought. */
    @Nullable String whyEmpty(StopReason reason, int tokens) {
        if (!text.isEmpty() || !toolCalls.isEmpty() || thinking.isEmpty() && !thinks) {
            return null;
        }
        if (thinks && (reason == StopReason.LENGTH || reason == StopReason.CONTEXT)) {
            String limit = reason == StopReason.LENGTH ? "all " + tokens + " tokens" : "what was left of the context";
            return "the thought took " + limit
                    + ", so there is no answer; allow more tokens (--max-new-tokens), or leave thinking off";
        }
        return thinks
                ? "the model ended inside its thought, so there is no answer; ask again, or leave thinking off"
                : "the model thought and then gave no answer; ask again, or leave thinking off";
    }
}
