package org.dgemma.runtime;

import java.util.Arrays;
import java.util.List;
import java.util.TreeSet;
import org.dgemma.tokenizer.Tokenizer;
import org.jspecify.annotations.Nullable;

/** The chat template around user text, and which ids are its markers. What a user types never becomes one. */
final class Chat {
    /** What may be trimmed of a user's text. */
    static final List<String> TRIMS = Arrays.asList("none", "both", "start", "end");

    /** The characters that Python's {@code str.strip} takes away. */
    private static final String WHITESPACE = "\t\n\u000B\f\r\u001C\u001D\u001E\u001F \u0085\u00A0\u1680\u2000\u2001\u2002"
            + "\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200A\u2028\u2029\u202F\u205F\u3000";

    private Chat() {}

    /** Ids that a user's turn appends to the prefix {@code before} (empty, or ending with an answer). */
    static int[] ids(Manifest manifest, Tokenizer tokenizer, String text, int[] before) {
        Manifest.ChatTemplate chat = manifest.chat;
        if (chat == null) {
            throw new UsageException("the bundle has no chat template; use raw text (--raw) or ids (--prompt-ids)");
        }
        IntList ids = new IntList();
        if (before.length == 0) {
            append(ids, chat.start);
        } else {
            if (!Progress.contains(manifest.model.eosTokenIds, before[before.length - 1])) {
                append(ids, endOfTurn(manifest.model.eosTokenIds, chat));
            }
            append(ids, chat.modelSuffix);
        }
        append(ids, chat.userPrefix);
        IntList following = new IntList();
        append(following, chat.userSuffix);
        append(following, chat.modelPrefix);
        int[] after = following.toArray();
        String content = chat.userLead + trim(text, chat.trim) + chat.userTail;
        append(ids, tokenizer.encodeUser(
                content, last(ids.toArray(), last(before, Tokenizer.NONE)), after.length > 0 ? after[0] : Tokenizer.NONE));
        append(ids, after);
        return ids.toArray();
    }

    /** An answer as text, without thoughts. */
    static String text(Manifest manifest, Tokenizer tokenizer, int[] ids) {
        int[] channel = manifest.chat == null || manifest.chat.roles == null ? null : manifest.chat.roles.channel;
        if (channel == null) {
            return tokenizer.decode(ids);
        }
        IntList spoken = new IntList();
        boolean inside = false;
        for (int id : ids) {
            inside = id != channel[1] && (inside || id == channel[0]);
            if (!inside && id != channel[1]) {
                spoken.add(id);
            }
        }
        String text = tokenizer.decode(spoken.toArray());
        return spoken.size() == ids.length ? text : trim(text, "both");
    }

    private static int last(int[] ids, int none) {
        return ids.length > 0 ? ids[ids.length - 1] : none;
    }

    private static String trim(String text, String sides) {
        int start = 0;
        int end = text.length();
        if (sides.equals("both") || sides.equals("start")) {
            while (start < end && WHITESPACE.indexOf(text.charAt(start)) >= 0) {
                start++;
            }
        }
        if (sides.equals("both") || sides.equals("end")) {
            while (end > start && WHITESPACE.indexOf(text.charAt(end - 1)) >= 0) {
                end--;
            }
        }
        return text.substring(start, end);
    }

    /** Ids that are markers and never text, in order. */
    static int[] markerIds(Manifest manifest) {
        IntList ids = new IntList();
        append(ids, new int[] {manifest.model.padTokenId, manifest.model.bosTokenId});
        append(ids, manifest.model.eosTokenIds);
        Manifest.@Nullable ChatTemplate chat = manifest.chat;
        if (chat != null) {
            append(ids, chat.start);
            append(ids, chat.userPrefix);
            append(ids, chat.userSuffix);
            append(ids, chat.modelPrefix);
            append(ids, chat.modelSuffix);
            if (chat.roles != null) {
                chat.roles.pieces.forEach(part -> {
                    if (part instanceof Integer) {
                        ids.add((Integer) part);
                    }
                });
                if (chat.roles.channel != null) {
                    append(ids, chat.roles.channel);
                }
            }
        }
        TreeSet<Integer> sorted = new TreeSet<>();
        for (int id : ids.toArray()) {
            sorted.add(id);
        }
        int[] markers = new int[sorted.size()];
        int i = 0;
        for (int id : sorted) {
            markers[i++] = id;
        }
        return markers;
    }

    /** The stop token that ends a user's turn ends an answer as well; none where the model has none. */
    private static int[] endOfTurn(int[] stops, Manifest.ChatTemplate chat) {
        for (int id : chat.userSuffix) {
            if (Progress.contains(stops, id)) {
                return new int[] {id};
            }
        }
        return Arrays.copyOf(stops, Math.min(stops.length, 1));
    }

    private static void append(IntList ids, int[] more) {
        ids.add(more, more.length);
    }
}
