package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.runtime.structure.CallForm;
import org.jspecify.annotations.Nullable;

/**
 * What a chat template with turns of other roles, thinking or tools adds, as far as it has them. A piece is a list of
 * Integer, ids of markers, and String, text that is encoded together with text beside it.
 */
final class Roles {
    private static final Kind<List<Object>> PIECE = Kind.list(Kind.DIMENSION);
    private static final Kind<Boolean> FLAG = (value, place) -> Kind.oneOf("no", "yes").read(value, place).equals("yes");
    static final Kind<Roles> KIND = Kind.object(Roles::new,
            "openings", "opening_trim", "turns", "answer", "joins", "drops_thoughts", "keeps_thinking", "channel",
            "tools");

    /**
     * What comes before the first turn, by what a conversation begins with: parts of the key, joined by "+", are system or
     * developer, think, and tools. Pieces stand around the content of the system turn and the declarations.
     */
    final Map<String, List<List<Object>>> openings;
    /** What is trimmed of that content. */
    final String openingTrim;
    /** By role: user, assistant, and system and developer where these may come later. */
    final Map<String, Turn> turns;
    /** What opens the model's answer, by "", think, tool (behind results) and tool+think. */
    final Map<String, List<Object>> answer;
    /**
     * How an answer that follows an answer goes on in its turn: no; before, without the text before its content; both,
     * without the text after the former's content, too.
     */
    final String joins;
    /** Thoughts in the text of answers are left out. */
    final boolean dropsThoughts;
    /** Of which answers behind the last user's turn the thinking is written: none, calls or all. */
    final String keepsThinking;
    final @Nullable Channel channel;
    final @Nullable ToolForm tools;

    private Roles(Fields fields) {
        openings = fields.get("openings", Kind.map(Kind.list(PIECE)));
        openingTrim = fields.get("opening_trim", Kind.TEXT);
        turns = fields.get("turns", Kind.map(Turn.KIND));
        answer = fields.get("answer", Kind.map(PIECE));
        joins = fields.get("joins", Kind.oneOf("no", "before", "both"));
        dropsThoughts = fields.get("drops_thoughts", FLAG, false);
        keepsThinking = fields.get("keeps_thinking", Kind.oneOf("none", "calls", "all"), "none");
        channel = fields.get("channel", Kind.orNull(Channel.KIND), null);
        tools = fields.get("tools", Kind.orNull(ToolForm.KIND), null);
        openings.forEach((key, pieces) -> {
            int around = 1;
            for (String part : key.split("\\+")) {
                around += part.equals("tools") || Messages.OPENING_ROLES.contains(part) ? 1 : 0;
            }
            if (pieces.size() != around) {
                throw fields.wrong("opening " + Json.repr(key) + " must have " + around + " pieces");
            }
        });
        if (!answer.containsKey("")) {
            throw fields.wrong("nothing opens an answer");
        }
    }

    /** Whether there is a switch for thinking. */
    boolean thinks() {
        return openings.containsKey("think") && answer.containsKey("think");
    }

    /** Every marker id in the pieces. */
    IntList markerIds() {
        IntList ids = new IntList();
        List<List<Object>> pieces = new ArrayList<>(answer.values());
        openings.values().forEach(pieces::addAll);
        turns.values().forEach(turn -> pieces.addAll(Arrays.asList(turn.before, turn.after)));
        for (List<Object> piece : pieces) {
            for (Object part : piece) {
                if (part instanceof Integer) {
                    ids.add((Integer) part);
                }
            }
        }
        if (channel != null) {
            ids.add(channel.open);
            ids.add(channel.close);
        }
        if (tools != null) {
            for (int[] pair : new int[][] {tools.declaration, tools.call, tools.response, {tools.quote}}) {
                ids.add(pair, pair.length);
            }
        }
        return ids;
    }

    /** The first value that names a form which this version does not have; null where there is none. */
    @Nullable String unknownForm() {
        List<String> trims = new ArrayList<>();
        trims.add(openingTrim);
        turns.values().forEach(turn -> trims.add(turn.trim));
        for (String trim : trims) {
            if (!Trim.SIDES.contains(trim)) {
                return "chat.roles trim " + Json.repr(trim);
            }
        }
        return tools == null || tools.form.equals(ToolForm.GEMMA) ? null
                : "chat.roles.tools.form " + Json.repr(tools.form);
    }

    /** What stands around the content of one role's turn, and what is trimmed of the content. */
    static final class Turn {
        static final Kind<Turn> KIND = Kind.object(Turn::new, "before", "after", "trim");

        final List<Object> before;
        final List<Object> after;
        final String trim;

        private Turn(Fields fields) {
            before = fields.get("before", PIECE);
            after = fields.get("after", PIECE);
            trim = fields.get("trim", Kind.TEXT);
        }
    }

    /** Marker ids around a thought, its name and line break, and their texts, which are taken out of earlier answers. */
    static final class Channel {
        static final Kind<Channel> KIND =
                Kind.object(Channel::new, "open", "close", "name", "open_text", "close_text");

        final int open;
        final int close;
        final String name;
        final String openText;
        final String closeText;

        private Channel(Fields fields) {
            open = fields.get("open", Kind.INTEGER);
            close = fields.get("close", Kind.INTEGER);
            name = fields.get("name", Kind.TEXT);
            openText = fields.get("open_text", Kind.TEXT);
            closeText = fields.get("close_text", Kind.TEXT);
            if (openText.isEmpty() || closeText.isEmpty()) {
                throw fields.wrong("a channel's markers must have a text");
            }
        }

        /** The text without what stands between the markers, and without the markers. */
        String withoutThoughts(String text) {
            StringBuilder spoken = new StringBuilder();
            for (int at = 0; at <= text.length(); ) {
                int close = text.indexOf(closeText, at);
                int end = close < 0 ? text.length() : close;
                int open = text.indexOf(openText, at);
                spoken.append(text, at, open < 0 || open > end - openText.length() ? end : open);
                at = close < 0 ? text.length() + 1 : close + closeText.length();
            }
            return spoken.toString();
        }
    }

    /** How tools are written. */
    static final class ToolForm {
        static final String GEMMA = "gemma";
        static final Kind<ToolForm> KIND = Kind.object(ToolForm::new,
                "form", "declaration", "call", "response", "quote", "null", "reopens", "closes");

        final String form;
        /** Marker ids around a declaration of a tool; the same of a call and of a result. */
        final int[] declaration;
        final int[] call;
        final int[] response;
        /** Marker id around texts in them. */
        final int quote;
        /** How no value is written. */
        final String none;
        /** An answer behind results opens a turn again. */
        final boolean reopens;
        /** Calls with results and without text are closed where a turn of another role follows. */
        final boolean closes;

        CallForm calls() {
            return new CallForm(form, none, call[0], call[1], quote);
        }

        private ToolForm(Fields fields) {
            form = fields.get("form", Kind.TEXT);
            declaration = fields.get("declaration", Kind.RANGE);
            call = fields.get("call", Kind.RANGE);
            response = fields.get("response", Kind.RANGE);
            quote = fields.get("quote", Kind.INTEGER);
            none = fields.get("null", Kind.TEXT);
            reopens = fields.get("reopens", FLAG);
            closes = fields.get("closes", FLAG);
        }
    }
}
