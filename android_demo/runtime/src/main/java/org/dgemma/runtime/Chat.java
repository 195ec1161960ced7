package org.dgemma.runtime;

import java.util.TreeSet;
import org.dgemma.runtime.tokenizer.Tokenizer;
import org.jspecify.annotations.Nullable;

/** The chat template around user text, and which ids are its markers. What a user types never becomes one. */
final class Chat {
    private Chat() {}

    /** Ids that a user's turn appends to the prefix {@code before} (empty, or ending with an answer). */
    static int[] ids(Manifest manifest, Tokenizer tokenizer, String text, int[] before) {
        Manifest.ChatTemplate chat = manifest.chat;
        if (chat == null) {
            throw new UsageException("the bundle has no chat template; use raw text (--raw) or ids (--prompt-ids)");
        }
        int[] user = tokenizer.encodeUser(text);
        IntList ids = new IntList();
        if (before.length == 0) {
            append(ids, chat.start);
        } else {
            if (!Progress.contains(manifest.model.eosTokenIds, before[before.length - 1])) {
                append(ids, new int[] {endOfTurn(manifest.model.eosTokenIds, chat)});
            }
            append(ids, chat.modelSuffix);
        }
        append(ids, chat.userPrefix);
        append(ids, user);
        append(ids, chat.userSuffix);
        append(ids, chat.modelPrefix);
        return ids.toArray();
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

    /** The stop token that ends a user's turn ends an answer as well. */
    private static int endOfTurn(int[] stops, Manifest.ChatTemplate chat) {
        for (int id : chat.userSuffix) {
            if (Progress.contains(stops, id)) {
                return id;
            }
        }
        return stops[0];
    }

    private static void append(IntList ids, int[] more) {
        ids.add(more, more.length);
    }
}
