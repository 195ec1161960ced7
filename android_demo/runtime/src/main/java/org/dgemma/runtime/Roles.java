package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * What a chat template with turns of other roles, thinking or tools adds. Of it this library takes which ids are
 * markers, and between which of them thoughts stand.
 */
final class Roles {
    private static final Kind<List<Object>> PIECE = Kind.list(Kind.DIMENSION);
    static final Kind<Roles> KIND = Kind.object(Roles::new,
            "openings", "opening_trim", "turns", "answer", "joins", "drops_thoughts", "keeps_thinking", "channel",
            "tools");
    private static final Kind<List<Object>> TURN = Kind.object(
            f -> {
                f.get("trim", Kind.TEXT);
                List<Object> pieces = new ArrayList<>(f.get("before", PIECE));
                pieces.addAll(f.get("after", PIECE));
                return pieces;
            },
            "before", "after", "trim");
    private static final Kind<int[]> CHANNEL = Kind.object(
            f -> {
                for (String key : new String[] {"name", "open_text", "close_text"}) {
                    f.get(key, Kind.TEXT);
                }
                return new int[] {f.get("open", Kind.INTEGER), f.get("close", Kind.INTEGER)};
            },
            "open", "close", "name", "open_text", "close_text");
    private static final Kind<List<Object>> TOOLS = Kind.object(
            f -> {
                for (String key : new String[] {"form", "null", "reopens", "closes"}) {
                    f.get(key, Kind.TEXT);
                }
                List<Object> ids = new ArrayList<>();
                ids.add(f.get("quote", Kind.INTEGER));
                for (String key : new String[] {"declaration", "call", "response"}) {
                    for (int id : f.get(key, Kind.RANGE)) {
                        ids.add(id);
                    }
                }
                return ids;
            },
            "form", "declaration", "call", "response", "quote", "null", "reopens", "closes");

    /** Ids of markers, and text between them. */
    final List<Object> pieces = new ArrayList<>();
    /** What opens and what closes a thought. */
    final int @Nullable [] channel;

    private Roles(Fields fields) {
        fields.get("openings", Kind.map(Kind.list(PIECE))).values().forEach(o -> o.forEach(pieces::addAll));
        fields.get("turns", Kind.map(TURN)).values().forEach(pieces::addAll);
        fields.get("answer", Kind.map(PIECE)).values().forEach(pieces::addAll);
        for (String key : new String[] {"opening_trim", "joins", "drops_thoughts", "keeps_thinking"}) {
            fields.get(key, Kind.TEXT);
        }
        channel = fields.get("channel", Kind.orNull(CHANNEL), null);
        List<Object> tools = fields.get("tools", Kind.orNull(TOOLS), null);
        if (tools != null) {
            pieces.addAll(tools);
        }
    }
}
