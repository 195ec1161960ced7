package org.dgemma.runtime;

import java.util.Arrays;
import java.util.TreeSet;
import org.dgemma.tokenizer.Tokenizer;
import org.jspecify.annotations.Nullable;

/** The chat template around user text, and which ids are its markers. What a user types never becomes one. */
final class Chat {
    static final String NO_TEMPLATE = "the bundle has no chat template; use raw text, or ids as the prompt";

    private Chat() {}

    /** Ids that a user's turn appends to the prefix {@code before} (empty, or ending with an answer). */
    static int[] ids(Manifest manifest, Tokenizer tokenizer, String text, int[] before) {
        Manifest.ChatTemplate chat = manifest.chat;
        if (chat == null) {
            throw new UsageException(NO_TEMPLATE);
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
        String content = chat.userLead + Trim.of(text, chat.trim) + chat.userTail;
        append(ids, tokenizer.encodeUser(
                content, last(ids.toArray(), last(before, Tokenizer.NONE)), after.length > 0 ? after[0] : Tokenizer.NONE));
        append(ids, after);
        return ids.toArray();
    }

    private static int last(int[] ids, int none) {
        return ids.length > 0 ? ids[ids.length - 1] : none;
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
                append(ids, chat.roles.markerIds().toArray());
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
    static int[] endOfTurn(int[] stops, Manifest.ChatTemplate chat) {
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
