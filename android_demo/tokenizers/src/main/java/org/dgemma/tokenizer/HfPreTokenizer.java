package org.dgemma.tokenizer;

import java.util.ArrayList;
import java.util.List;

/** Cuts text before the model sees it; pre-tokenizers of huggingface/tokenizers. */
interface HfPreTokenizer {
    /** Adds the pieces of a part that is no token and not empty. */
    void split(HfPart part, List<HfPart> out);

    /** A property of a character. */
    interface Test {
        boolean holds(int c);
    }

    static HfPreTokenizer of(HfComponent settings) {
        switch (settings.type()) {
            case "Sequence":
                return sequence(settings);
            case "Split":
                HfPattern pattern = settings.pattern();
                HfSplit.Behavior behavior = HfSplit.Behavior.of(settings, HfSplit.Behavior.ISOLATED);
                boolean invert = settings.flag("invert");
                return (part, out) -> HfSplit.split(part, pattern.spans(part.text), invert, behavior, out);
            case "ByteLevel":
                return byteLevel(settings);
            case "Metaspace":
                return metaspace(settings);
            case "Whitespace":
                HfPattern words = HfPattern.java(
                        "[\\p{IsAlphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200C\\u200D]+"
                                + "|[^\\p{IsAlphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200C\\u200D\\t-\\r\\x{85}\\p{Z}]+");
                return (part, out) -> HfSplit.split(part, words.spans(part.text), true, HfSplit.Behavior.REMOVED, out);
            case "WhitespaceSplit":
                return at(Characters::isSpace, HfSplit.Behavior.REMOVED);
            case "Digits":
                return at(
                        Characters::isNumber,
                        settings.flag("individual_digits") ? HfSplit.Behavior.ISOLATED : HfSplit.Behavior.CONTIGUOUS);
            case "Punctuation":
                return at(Characters::isPunctuation, HfSplit.Behavior.of(settings, HfSplit.Behavior.ISOLATED));
            default:
                throw settings.unsupported();
        }
    }

    static HfPreTokenizer sequence(HfComponent settings) {
        List<HfPreTokenizer> all = new ArrayList<>();
        for (HfComponent child : settings.children("pretokenizers")) {
            all.add(of(child));
        }
        return (part, out) -> {
            List<HfPart> parts = new ArrayList<>();
            parts.add(part);
            for (HfPreTokenizer next : all) {
                List<HfPart> cut = new ArrayList<>(parts.size());
                for (HfPart each : parts) {
                    next.split(each, cut);
                }
                parts = cut;
            }
            out.addAll(parts);
        };
    }

    static HfPreTokenizer at(Test test, HfSplit.Behavior behavior) {
        return (part, out) -> {
            Ints spans = new Ints(32);
            int end = 0;
            for (int at = 0; at < part.text.length(); ) {
                int c = part.text.codePointAt(at);
                int next = at + Character.charCount(c);
                if (test.holds(c)) {
                    if (at > end) {
                        spans.add(at);
                        spans.add(0);
                    }
                    spans.add(next);
                    spans.add(1);
                    end = next;
                }
                at = next;
            }
            if (end < part.text.length()) {
                spans.add(part.text.length());
                spans.add(0);
            }
            HfSplit.split(part, spans, false, behavior, out);
        };
    }

    static HfPreTokenizer byteLevel(HfComponent settings) {
        boolean addPrefixSpace = settings.flag("add_prefix_space");
        boolean useRegex = settings.flag("use_regex", true);
        HfPattern gpt2 = HfPattern.regex(
                "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+");
        return (part, out) -> {
            if (addPrefixSpace && !part.text.startsWith(" ")) {
                part.text = " " + part.text;
            }
            int first = out.size();
            if (useRegex) {
                HfSplit.split(part, gpt2.spans(part.text), false, HfSplit.Behavior.ISOLATED, out);
            } else {
                out.add(part);
            }
            for (HfPart piece : out.subList(first, out.size())) {
                piece.text = ByteChars.encode(piece.text);
            }
        };
    }

    static HfPreTokenizer metaspace(HfComponent settings) {
        int mark = settings.character("replacement");
        String replacement = new String(Character.toChars(mark));
        String scheme = settings.prependScheme();
        boolean split = settings.flag("split", true);
        HfPreTokenizer cut = at(c -> c == mark, HfSplit.Behavior.MERGED_WITH_NEXT);
        return (part, out) -> {
            part.text = part.text.replace(" ", replacement);
            boolean prepend = scheme.equals("always") || scheme.equals("first") && part.atStart;
            if (prepend && !part.text.startsWith(replacement)) {
                part.text = replacement + part.text;
            }
            if (split) {
                cut.split(part, out);
            } else {
                out.add(part);
            }
        };
    }
}
