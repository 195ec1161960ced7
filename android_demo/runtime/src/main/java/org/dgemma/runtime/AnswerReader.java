package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.List;
import org.dgemma.tokenizer.Tokenizer;
import org.jspecify.annotations.Nullable;

/**
 * Reads an answer's ids as text, thoughts and tool calls, by the markers of the chat template; without channel and tools,
 * everything is text. It reads all ids of an answer at once, so where a canvas ends makes no difference.
 */
final class AnswerReader {
    private final Tokenizer tokenizer;
    private final Roles.@Nullable Channel channel;
    private final Roles.@Nullable ToolForm tools;

    AnswerReader(Tokenizer tokenizer, @Nullable Roles roles) {
        this.tokenizer = tokenizer;
        this.channel = roles == null ? null : roles.channel;
        this.tools = roles == null ? null : roles.tools;
    }

    /** Ids of one kind that stand together, without markers; a thought or a call is closed once its end was given. */
    private static final class Span {
        final TokenKind kind;
        final IntList ids = new IntList();
        boolean closed;

        Span(TokenKind kind) {
            this.kind = kind;
        }

        int[] ids() {
            return ids.toArray();
        }
    }

    /** Whether answers may hold thoughts or calls. */
    boolean hasMarkers() {
        return channel != null || tools != null;
    }

    /** Whether a prompt ends inside a thought, which the answer then goes on with. */
    boolean opensInside(int[] prompt) {
        for (int i = prompt.length - 1; i >= 0 && channel != null; i--) {
            if (prompt[i] == channel.open || prompt[i] == channel.close) {
                return prompt[i] == channel.open;
            }
        }
        return false;
    }

    /** The answer cut at its markers. A thought ends at its marker, or where a call begins. */
    private List<Span> spans(int[] ids, boolean inside) {
        List<Span> spans = new ArrayList<>();
        Span span = new Span(inside ? TokenKind.THOUGHT : TokenKind.TEXT);
        for (int id : ids) {
            TokenKind next = next(span.kind, id);
            if (next == null) {
                span.ids.add(id);
                continue;
            }
            span.closed = true;
            if (span.ids.size() > 0 || span.kind != TokenKind.TEXT) {
                spans.add(span);
            }
            span = new Span(next);
        }
        span.closed = span.kind == TokenKind.TEXT;
        if (span.ids.size() > 0 || span.kind != TokenKind.TEXT) {
            spans.add(span);
        }
        return spans;
    }

    /** Of every id. */
    TokenKind[] kinds(int[] ids, boolean inside) {
        TokenKind[] found = new TokenKind[ids.length];
        TokenKind kind = inside ? TokenKind.THOUGHT : TokenKind.TEXT;
        for (int i = 0; i < ids.length; i++) {
            TokenKind next = next(kind, ids[i]);
            found[i] = next == null || next == TokenKind.TEXT ? kind : next;
            kind = next == null ? kind : next;
        }
        return found;
    }

    /** What follows a marker that counts where it stands; null for a token that is content. */
    private @Nullable TokenKind next(TokenKind kind, int id) {
        boolean calls = tools != null && id == tools.call[0];
        boolean called = tools != null && id == tools.call[1];
        if (kind == TokenKind.CALL) {
            return called ? TokenKind.TEXT : null;
        }
        if (calls) {
            return TokenKind.CALL;
        }
        boolean closes = channel != null && id == channel.close;
        if (kind == TokenKind.THOUGHT) {
            return closes ? TokenKind.TEXT : null;
        }
        if (channel != null && id == channel.open) {
            return TokenKind.THOUGHT;
        }
        return closes || called ? TokenKind.TEXT : null;
    }

    /** The answer of ids up to, without, the stop token. */
    Answer read(int[] ids, boolean inside) {
        return read(ids, inside, true, true);
    }

    /** As above, of an answer that may go on: a call that has no end yet is left out. */
    Answer soFar(int[] ids, boolean inside) {
        return read(ids, inside, false, true);
    }

    /** The text of {@link #soFar}, with white space at its ends. */
    String untrimmed(int[] ids, boolean inside) {
        return read(ids, inside, false, false).text;
    }

    private Answer read(int[] ids, boolean inside, boolean ended, boolean trims) {
        List<Span> spans = spans(ids, inside);
        if (spans.isEmpty() || spans.size() == 1 && spans.get(0).kind == TokenKind.TEXT) {
            return Answer.of(tokenizer.decode(ids));
        }
        StringBuilder text = new StringBuilder();
        IntList said = new IntList(); // text since the last malformed call
        StringBuilder thinking = new StringBuilder();
        List<ToolCall> calls = new ArrayList<>();
        List<String> warnings = new ArrayList<>();
        for (Span span : spans) {
            if (span.kind == TokenKind.TEXT) {
                said.add(span.ids(), span.ids.size());
            } else if (span.kind == TokenKind.THOUGHT) {
                String thought = thought(span.ids());
                thinking.append(thinking.length() > 0 && !thought.isEmpty() ? "\n" : "").append(thought);
            } else if (span.closed || ended) {
                List<String> texts = quoted(span.ids());
                try {
                    calls.add(call(texts, span.closed, calls.size()));
                } catch (CallReader.Malformed error) {
                    text.append(tokenizer.decode(said.toArray())).append(String.join("\"", texts));
                    said.truncate(0);
                    warnings.add("a tool call cannot be read (" + error.getMessage() + ") and is left in the text");
                }
            }
        }
        text.append(tokenizer.decode(said.toArray()));
        Span last = spans.get(spans.size() - 1);
        boolean thinks = !last.closed && last.kind == TokenKind.THOUGHT;
        String all = text.toString();
        return new Answer(trims ? Trim.both(all) : all, thinking.toString(), calls, warnings, thinks);
    }

    private static ToolCall call(List<String> texts, boolean closed, int number) throws CallReader.Malformed {
        if (!closed) {
            throw new CallReader.Malformed("it has no end");
        }
        return CallReader.read(texts, "call_" + number);
    }

    /** A thought's text without the channel's name. */
    private String thought(int[] ids) {
        String text = tokenizer.decode(ids);
        String name = channel == null ? "" : channel.name;
        if (text.equals(Trim.both(name))) {
            return "";
        }
        return Trim.both(text.startsWith(name) ? text.substring(name.length()) : text);
    }

    /** Texts between the quotes of a call, outside and inside in turns. */
    private List<String> quoted(int[] ids) {
        List<String> texts = new ArrayList<>();
        IntList part = new IntList();
        for (int id : ids) {
            if (tools != null && id == tools.quote) {
                texts.add(tokenizer.decode(part.toArray()));
                part.truncate(0);
            } else {
                part.add(id);
            }
        }
        texts.add(tokenizer.decode(part.toArray()));
        return texts;
    }
}
