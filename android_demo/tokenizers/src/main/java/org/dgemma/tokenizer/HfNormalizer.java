package org.dgemma.tokenizer;

import java.text.Normalizer;
import java.util.ArrayList;
import java.util.List;

/** Changes text before it is cut; normalizers of huggingface/tokenizers. */
interface HfNormalizer {
    void apply(HfPart part);

    static HfNormalizer of(HfComponent settings) {
        switch (settings.type()) {
            case "Sequence":
                List<HfNormalizer> all = new ArrayList<>();
                for (HfComponent child : settings.children("normalizers")) {
                    all.add(of(child));
                }
                return part -> {
                    for (HfNormalizer normalizer : all) {
                        normalizer.apply(part);
                    }
                };
            case "Replace":
                HfPattern pattern = settings.pattern();
                String content = settings.text("content");
                return part -> part.text = pattern.replace(part.text, content);
            case "Prepend":
                String prefix = settings.text("prepend");
                return part -> part.text = part.text.isEmpty() ? "" : prefix + part.text;
            case "NFC":
                return form(Normalizer.Form.NFC);
            case "NFD":
                return form(Normalizer.Form.NFD);
            case "NFKC":
                return form(Normalizer.Form.NFKC);
            case "NFKD":
                return form(Normalizer.Form.NFKD);
            case "Lowercase":
                return part -> part.text = lowercase(part.text);
            case "Strip":
                boolean left = settings.flag("strip_left");
                boolean right = settings.flag("strip_right");
                return part -> strip(part, left, right);
            case "ByteLevel":
                return part -> part.text = ByteChars.encode(part.text);
            default:
                throw settings.unsupported();
        }
    }

    static HfNormalizer form(Normalizer.Form form) {
        return part -> part.text = Normalizer.normalize(part.text, form);
    }

    /** Character by character, so that a sigma at the end of a word is like any other. */
    static String lowercase(String text) {
        StringBuilder out = new StringBuilder(text.length());
        for (int at = 0; at < text.length(); ) {
            int c = text.codePointAt(at);
            at += Character.charCount(c);
            if (c == 0x130) {
                out.append("i\u0307");
            } else {
                out.appendCodePoint(Character.toLowerCase(c));
            }
        }
        return out.toString();
    }

    static void strip(HfPart part, boolean left, boolean right) {
        String text = part.text;
        int from = 0;
        int to = text.length();
        while (left && from < to && Characters.isSpace(text.charAt(from))) {
            from++;
        }
        while (right && to > from && Characters.isSpace(text.charAt(to - 1))) {
            to--;
        }
        part.text = text.substring(from, to);
        part.atStart &= from == 0;
    }
}
