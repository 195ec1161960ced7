package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.dgemma.format.Json;

/** Templates of an answer: text with holes, {@code Dear {{8}}, please come to {{12}}.}, each of as many tokens as it says. */
final class Template {
    private static final Pattern HOLE = Pattern.compile("\\{\\{([0-9]{1,9})\\}\\}");
    private static final int SHOWN = 60;

    private Template() {}

    /** In order, pieces of text as String, none of them empty, and holes as Integer, their tokens. Throws UsageException. */
    static List<Object> read(String text) {
        List<Object> pieces = new ArrayList<>();
        Matcher hole = HOLE.matcher(text);
        String shown = "template " + Json.repr(text, SHOWN);
        int end = 0;
        while (hole.find()) {
            add(pieces, text.substring(end, hole.start()));
            int tokens = Integer.parseInt(hole.group(1));
            if (tokens == 0) {
                throw new UsageException(shown + " has a hole of 0 tokens; a hole has 1 or more");
            }
            pieces.add(tokens);
            end = hole.end();
        }
        if (pieces.isEmpty()) {
            throw new UsageException(shown + " has no hole; write {{8}} for one of 8 tokens");
        }
        add(pieces, text.substring(end));
        return pieces;
    }

    private static void add(List<Object> pieces, String text) {
        if (!text.isEmpty()) {
            pieces.add(text);
        }
    }
}
