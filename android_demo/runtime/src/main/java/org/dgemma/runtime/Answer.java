package org.dgemma.runtime;

import java.util.Collections;
import java.util.List;
import org.dgemma.format.Json;
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

    /**
     * Why it is empty, in one line; null where it says something or was cancelled.
     *
     * @param pads how many of its tokens are padding at its end
     * @param stoppedBy the stop string that it ended before
     */
    @Nullable String whyEmpty(StopReason reason, int tokens, int pads, @Nullable String stoppedBy) {
        if (!text.isEmpty() || !toolCalls.isEmpty() || reason == StopReason.CANCELLED) {
            return null;
        }
        if (thinking.isEmpty() && !thinks) {
            if (stoppedBy != null) {
                return "the answer is empty: it begins with the stop string " + Json.repr(stoppedBy);
            }
            boolean silent = tokens > pads; // tokens without text, or a bundle without a tokenizer
            return silent ? null : "the answer is empty: the model " + (pads > 0 ? "gave only padding" : "ended it at once");
        }
        if (thinks && (reason == StopReason.LENGTH || reason == StopReason.CONTEXT)) {
            String limit = reason == StopReason.LENGTH ? "all " + tokens + " tokens" : "what was left of the context";
            return "the thought took " + limit
                    + ", so there is no answer; allow more tokens, or leave thinking off";
        }
        return thinks
                ? "the model ended inside its thought, so there is no answer; ask again, or leave thinking off"
                : "the model thought and then gave no answer; ask again, or leave thinking off";
    }
}
