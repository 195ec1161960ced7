package org.dgemma.runtime;

/**
 * Text that grows, handed out in pieces that later tokens cannot change.
 *
 * <p>An answer may be cut inside a character that takes several byte tokens; until the rest arrives, decoding shows
 * U+FFFD. So trailing U+FFFD are held back, and trailing spaces as well, which some decoders strip. An answer with thoughts
 * or calls is trimmed, which nobody knows before they come: where they may, white space at the start is never told, and
 * white space at the end is held back. It knows nothing of tokens.
 */
final class TextStream {
    private final boolean trimmed;
    private String sent = "";

    /** @param trimmed whether the text may be trimmed later */
    TextStream(boolean trimmed) {
        this.trimmed = trimmed;
    }

    boolean trimmed() {
        return trimmed;
    }

    /** What can be told now that the text has become {@code given}; may be empty. */
    String grow(String given) {
        String text = begun(given);
        int end = text.length();
        while (end > 0 && waits(text.charAt(end - 1))) {
            end--;
        }
        return text.startsWith(sent) ? send(text, sent.length(), end) : "";
    }

    /** The rest; a decoder that changed text already told gets what follows the part that it kept. */
    String finish(String given) {
        String text = begun(given);
        int same = 0;
        int most = Math.min(sent.length(), text.length());
        while (same < most && sent.charAt(same) == text.charAt(same)) {
            same++;
        }
        if (same > 0 && same < text.length() && Character.isLowSurrogate(text.charAt(same))) {
            same--;
        }
        return send(text, same, text.length());
    }

    private boolean waits(char last) {
        return last == '\uFFFD' || last == ' ' || trimmed && Trim.isSpace(last);
    }

    private String begun(String text) {
        return trimmed ? Trim.of(text, "start") : text;
    }

    private String send(String text, int start, int end) {
        if (end <= start) {
            return "";
        }
        sent = text.substring(0, end);
        return text.substring(start, end);
    }
}
