package org.dgemma.tokenizer;

import java.util.List;

/** Cuts text at matches, in the five ways of the library (SplitDelimiterBehavior). */
final class HfSplit {
    enum Behavior {
        REMOVED("Removed"),
        ISOLATED("Isolated"),
        MERGED_WITH_PREVIOUS("MergedWithPrevious"),
        MERGED_WITH_NEXT("MergedWithNext"),
        CONTIGUOUS("Contiguous");

        private final String name;

        Behavior(String name) {
            this.name = name;
        }

        static Behavior of(HfComponent settings, Behavior otherwise) {
            String name = settings.text("behavior", otherwise.name);
            for (Behavior behavior : values()) {
                if (behavior.name.equals(name)) {
                    return behavior;
                }
            }
            throw settings.wrong("behavior");
        }
    }

    private HfSplit() {}

    /** `matches` are the spans of {@link HfPattern#spans}; with `invert` what lies between matches is the delimiter. */
    static void split(HfPart part, Ints spans, boolean invert, Behavior behavior, List<HfPart> out) {
        int count = spans.size() / 2;
        boolean[] matched = new boolean[count];
        for (int i = 0; i < count; i++) {
            matched[i] = spans.get(2 * i + 1) == 1 ^ invert;
        }
        int start = 0;
        for (int i = 0; i < count; i++) {
            int from = i == 0 ? 0 : spans.get(2 * i - 2);
            int to = spans.get(2 * i);
            if (behavior == Behavior.REMOVED) {
                if (!matched[i]) {
                    part.slice(from, to, out);
                }
            } else if (i + 1 == count || !joinsNext(matched, i, behavior)) {
                part.slice(start, to, out);
                start = to;
            }
        }
    }

    private static boolean joinsNext(boolean[] matched, int i, Behavior behavior) {
        switch (behavior) {
            case CONTIGUOUS:
                return matched[i] == matched[i + 1];
            case MERGED_WITH_PREVIOUS:
                return matched[i + 1] && !matched[i];
            case MERGED_WITH_NEXT:
                return matched[i] && !matched[i + 1];
            default:
                return false;
        }
    }
}
