package org.dgemma.tokenizer;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Turns tokens back into text, step by step; decoders of huggingface/tokenizers. What is left in the end is joined. */
interface HfDecoder {
    List<String> apply(List<String> tokens);

    static HfDecoder of(HfComponent settings) {
        switch (settings.type()) {
            case "Sequence":
                List<HfDecoder> all = new ArrayList<>();
                for (HfComponent child : settings.children("decoders")) {
                    all.add(of(child));
                }
                return tokens -> {
                    List<String> decoded = tokens;
                    for (HfDecoder decoder : all) {
                        decoded = decoder.apply(decoded);
                    }
                    return decoded;
                };
            case "Replace":
                HfPattern pattern = settings.pattern();
                String content = settings.text("content");
                return tokens -> {
                    List<String> out = new ArrayList<>(tokens.size());
                    for (String token : tokens) {
                        out.add(pattern.replace(token, content));
                    }
                    return out;
                };
            case "ByteFallback":
                return HfDecoder::byteFallback;
            case "Fuse":
                return tokens -> Collections.singletonList(String.join("", tokens));
            case "Strip":
                int stripped = settings.character("content");
                int start = settings.natural("start");
                int stop = settings.natural("stop");
                return tokens -> {
                    List<String> out = new ArrayList<>(tokens.size());
                    for (String token : tokens) {
                        out.add(strip(token, stripped, start, stop));
                    }
                    return out;
                };
            case "ByteLevel":
                return tokens -> {
                    Bytes bytes = new Bytes(tokens.size() * 4);
                    for (String token : tokens) {
                        ByteChars.decode(token, bytes);
                    }
                    return Collections.singletonList(Utf8.lossy(bytes.values, 0, bytes.size));
                };
            case "Metaspace":
                int mark = settings.character("replacement");
                boolean prepended = !settings.prependScheme().equals("never");
                return tokens -> unmark(tokens, new String(Character.toChars(mark)), prepended);
            default:
                throw settings.unsupported();
        }
    }

    /** A run of byte tokens becomes text if it is UTF-8 as a whole, else one U+FFFD a byte. */
    static List<String> byteFallback(List<String> tokens) {
        List<String> out = new ArrayList<>(tokens.size());
        Bytes run = new Bytes(16);
        for (int i = 0; i <= tokens.size(); i++) {
            int value = i < tokens.size() ? byteValue(tokens.get(i)) : -1;
            if (value >= 0) {
                run.add(value);
                continue;
            }
            if (run.size > 0) {
                boolean whole = Utf8.isValid(run.values, 0, run.size);
                for (int j = 0; !whole && j < run.size; j++) {
                    out.add("\uFFFD");
                }
                if (whole) {
                    out.add(Utf8.lossy(run.values, 0, run.size));
                }
                run.size = 0;
            }
            if (i < tokens.size()) {
                out.add(tokens.get(i));
            }
        }
        return out;
    }

    static int byteValue(String token) {
        if (token.length() != 6 || !token.startsWith("<0x") || token.charAt(5) != '>') {
            return -1;
        }
        // The library's parser takes a plus sign for part of a number.
        int high = token.charAt(3) == '+' ? 0 : hexDigit(token.charAt(3));
        int low = hexDigit(token.charAt(4));
        return high < 0 || low < 0 ? -1 : high << 4 | low;
    }

    static int hexDigit(char c) {
        return c < 0x80 ? Character.digit(c, 16) : -1;
    }

    static String strip(String token, int content, int start, int stop) {
        int width = Character.charCount(content);
        int from = 0;
        int to = token.length();
        for (int i = 0; i < start && from < to && token.codePointAt(from) == content; i++) {
            from += width;
        }
        for (int i = 0; i < stop && to > from && token.codePointBefore(to) == content; i++) {
            to -= width;
        }
        return token.substring(from, to);
    }

    static List<String> unmark(List<String> tokens, String mark, boolean prepended) {
        List<String> out = new ArrayList<>(tokens.size());
        for (String token : tokens) {
            out.add(token.replace(mark, prepended && out.isEmpty() ? "" : " "));
        }
        return out;
    }
}
