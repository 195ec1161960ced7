package org.dgemma.runtime;

import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * Where the text of an answer ends early, whatever tokens and canvases it comes in: before the first stop string in it. It
 * knows the text that ids say so far, and nothing of how they came about.
 */
final class StopStrings {
    private final List<String> strings;
    private final Function<int[], String> read;
    /** The stop string that the answer ended before; null as long as there is none. */
    @Nullable String found;
    /** What stands before it. */
    String text = "";

    /** @param read the text of ids, with white space at its ends */
    StopStrings(List<String> strings, Function<int[], String> read) {
        this.strings = strings;
        this.read = read;
    }

    /** How many of the tokens stay: those whose text ends before the stop string; all of them where there is none. */
    int kept(int[] tokens) {
        String all = read.apply(tokens);
        int first = -1;
        for (String string : strings) {
            int at = all.indexOf(string);
            if (at >= 0 && (first < 0 || at < first)) {
                first = at;
                found = string;
            }
        }
        if (found == null) {
            return tokens.length;
        }
        text = all.substring(0, first);
        int count = tokens.length;
        while (read.apply(Arrays.copyOf(tokens, count)).length() > first) {
            count--;
        }
        return count;
    }

    /** What of a text that may go on is sure to stand before a stop string. */
    String sure(String begun) {
        int longest = 0;
        for (String string : strings) {
            longest = Math.max(longest, string.length() - 1);
        }
        for (int n = Math.min(longest, begun.length()); n > 0; n--) {
            String end = begun.substring(begun.length() - n);
            if (strings.stream().anyMatch(string -> string.startsWith(end))) {
                return begun.substring(0, begun.length() - n);
            }
        }
        return begun;
    }
}
