package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import org.dgemma.format.Json;
import org.jspecify.annotations.Nullable;

/** Reads a call that the model wrote in Gemma's form, as {@link CallWriter} writes it. */
final class CallReader {
    /** A call that is not of the form. */
    static final class Malformed extends Exception {
        private static final long serialVersionUID = 1L;

        Malformed(String why) {
            super(why);
        }
    }

    private static final Pattern NUMBER = Pattern.compile("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]{1,2})?");
    private static final int LONGEST_NUMBER = 40;
    private static final int MOST_DEPTH = 50;
    private static final String CALL = "call:";
    private static final Map<String, @Nullable Object> WORDS = new HashMap<>();

    static {
        WORDS.put("true", true);
        WORDS.put("false", false);
        WORDS.put("null", null);
        WORDS.put("None", null);
    }

    /** Characters, and quoted texts as String. */
    private final List<Object> items;
    private int at;

    private CallReader(List<Object> items) {
        this.items = items;
    }

    /** The call given as the texts between its quotes, outside and inside in turns. */
    static ToolCall read(List<String> texts, String id) throws Malformed {
        if (texts.size() % 2 == 0) {
            throw new Malformed("a quote is not closed");
        }
        String first = Trim.of(texts.get(0), "start");
        int brace = CALL.length();
        while (brace < first.length() && "{}".indexOf(first.charAt(brace)) < 0 && !Trim.isSpace(first.charAt(brace))) {
            brace++;
        }
        if (!first.startsWith(CALL) || brace == CALL.length() || !first.startsWith("{", brace)) {
            throw new Malformed("it does not begin with call:NAME{");
        }
        List<Object> items = new ArrayList<>();
        for (int i = 0; i < texts.size(); i++) {
            if (i % 2 == 1) {
                items.add(texts.get(i));
                continue;
            }
            for (char c : (i == 0 ? first.substring(brace + 1) : texts.get(i)).toCharArray()) {
                items.add(c);
            }
        }
        CallReader reader = new CallReader(items);
        Map<String, @Nullable Object> arguments = reader.entries(0);
        if (reader.peek() != null) {
            throw new Malformed("there is text after the closing brace");
        }
        return ToolCall.of(first.substring(CALL.length(), brace), arguments, id);
    }

    /** What stands after an opening brace, through the closing one. */
    private Map<String, @Nullable Object> entries(int depth) throws Malformed {
        Map<String, @Nullable Object> found = new LinkedHashMap<>();
        if (skip('}')) {
            return found;
        }
        while (true) {
            String key = quoted();
            if (key == null || key.isEmpty()) {
                key = until(":");
            }
            if (key.isEmpty() || !skip(':')) {
                throw new Malformed("a key has no value");
            }
            if (found.containsKey(key)) {
                throw new Malformed(Json.repr(key) + " is given twice");
            }
            found.put(key, value(depth + 1));
            if (skip('}')) {
                return found;
            }
            if (!skip(',')) {
                throw new Malformed("no comma or brace after a value");
            }
        }
    }

    private @Nullable Object value(int depth) throws Malformed {
        if (depth > MOST_DEPTH) {
            throw new Malformed("its values are nested too deeply");
        }
        String text = quoted();
        if (text != null) {
            return text;
        }
        if (skip('{')) {
            return entries(depth);
        }
        if (skip('[')) {
            return elements(depth);
        }
        String word = until(",}]");
        if (word.isEmpty()) {
            throw new Malformed("a key has no value");
        }
        if (WORDS.containsKey(word)) {
            return WORDS.get(word);
        }
        return word.length() <= LONGEST_NUMBER && NUMBER.matcher(word).matches() ? Json.parse(word) : word;
    }

    private List<Object> elements(int depth) throws Malformed {
        List<Object> found = new ArrayList<>();
        if (skip(']')) {
            return found;
        }
        while (true) {
            found.add(value(depth + 1));
            if (skip(']')) {
                return found;
            }
            if (!skip(',')) {
                throw new Malformed("no comma or bracket after a value");
            }
        }
    }

    /** What comes next that is no white space; null at the end. */
    private @Nullable Object peek() {
        while (at < items.size() && items.get(at) instanceof Character && Trim.isSpace((Character) items.get(at))) {
            at++;
        }
        return at < items.size() ? items.get(at) : null;
    }

    private boolean skip(char character) {
        boolean found = Character.valueOf(character).equals(peek());
        at += found ? 1 : 0;
        return found;
    }

    private @Nullable String quoted() {
        Object item = peek();
        if (!(item instanceof String)) {
            return null;
        }
        at++;
        return (String) item;
    }

    private String until(String ends) {
        StringBuilder word = new StringBuilder();
        while (at < items.size() && items.get(at) instanceof Character && ends.indexOf((Character) items.get(at)) < 0) {
            word.append(items.get(at++));
        }
        return Trim.both(word.toString());
    }
}
