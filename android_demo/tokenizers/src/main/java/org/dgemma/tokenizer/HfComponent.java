package org.dgemma.tokenizer;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** The settings of one normalizer, pre-tokenizer or decoder of a `tokenizer.json`. */
final class HfComponent {
    /** normalizer, pre-tokenizer or decoder. */
    final String role;
    private final Map<?, ?> settings;

    HfComponent(String role, @Nullable Object tree) {
        if (!(tree instanceof Map)) {
            throw new TokenizerException("the " + role + " is not an object");
        }
        this.role = role;
        this.settings = (Map<?, ?>) tree;
    }

    String type() {
        return text("type");
    }

    String text(String key) {
        Object value = settings.get(key);
        if (!(value instanceof String)) {
            throw wrong(key);
        }
        return (String) value;
    }

    String text(String key, String otherwise) {
        return settings.get(key) == null ? otherwise : text(key);
    }

    boolean flag(String key) {
        Object value = settings.get(key);
        if (!(value instanceof Boolean)) {
            throw wrong(key);
        }
        return (Boolean) value;
    }

    boolean flag(String key, boolean otherwise) {
        return settings.get(key) == null ? otherwise : flag(key);
    }

    int natural(String key) {
        Object value = settings.get(key);
        long number = value instanceof Long ? (Long) value : value instanceof Integer ? (Integer) value : -1;
        if (number < 0 || number > Integer.MAX_VALUE) {
            throw wrong(key);
        }
        return (int) number;
    }

    /** A setting that is one character. */
    int character(String key) {
        String text = text(key);
        if (text.isEmpty() || text.length() != Character.charCount(text.codePointAt(0))) {
            throw wrong(key);
        }
        return text.codePointAt(0);
    }

    List<HfComponent> children(String key) {
        Object value = settings.get(key);
        if (!(value instanceof List)) {
            throw wrong(key);
        }
        List<HfComponent> children = new ArrayList<>();
        for (Object child : (List<?>) value) {
            children.add(new HfComponent(role, child));
        }
        return children;
    }

    /** The setting `pattern`: {"String": …}, taken literally, or {"Regex": …}. */
    HfPattern pattern() {
        Object value = settings.get("pattern");
        if (value instanceof Map && ((Map<?, ?>) value).size() == 1) {
            Object literal = ((Map<?, ?>) value).get("String");
            Object regex = ((Map<?, ?>) value).get("Regex");
            if (literal instanceof String) {
                return HfPattern.literal((String) literal);
            }
            if (regex instanceof String) {
                return HfPattern.regex((String) regex);
            }
        }
        throw wrong("pattern");
    }

    /** The setting of Metaspace: always, first or never. Older files say add_prefix_space. */
    String prependScheme() {
        String scheme = text("prepend_scheme", "always");
        if (!flag("add_prefix_space", true)) {
            if (!scheme.equals("never") && settings.get("prepend_scheme") != null) {
                throw wrong("add_prefix_space");
            }
            return "never";
        }
        if (!scheme.equals("always") && !scheme.equals("first") && !scheme.equals("never")) {
            throw wrong("prepend_scheme");
        }
        return scheme;
    }

    UnsupportedException unsupported() {
        return new UnsupportedException("the " + role + " '" + type() + "'");
    }

    TokenizerException wrong(String key) {
        return new TokenizerException("the " + role + "'s '" + key + "' is not valid");
    }
}
