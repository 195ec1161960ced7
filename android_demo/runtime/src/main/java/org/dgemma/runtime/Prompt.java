package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.dgemma.tokenizer.Tokenizer;
import org.jspecify.annotations.Nullable;

/** Conversations as ids: what a bundle's chat template makes of messages, thinking and tools. No text becomes a marker. */
final class Prompt {
    private Prompt() {}

    /** Ids of a whole conversation, behind the system turn that the options may give, up to where the model answers. */
    static int[] ids(Manifest manifest, Tokenizer tokenizer, List<Message> messages, GenerateOptions options) {
        Manifest.ChatTemplate chat = manifest.chat;
        if (chat == null) {
            throw new UsageException(Chat.NO_TEMPLATE);
        }
        if (chat.roles != null) {
            List<Message> turns = new ArrayList<>();
            if (options.system != null) {
                turns.add(Message.system(options.system));
            }
            turns.addAll(messages);
            int first = options.system == null ? 1 : 0;
            return encoded(Composer.compose(chat.roles, turns, options.think, options.tools, first), tokenizer);
        }
        if (options.speaks()) {
            throw new UsageException(options.think ? Composer.NO_THINKING
                    : options.tools.isEmpty() ? Composer.NO_SYSTEM : Composer.NO_TOOLS);
        }
        return plainIds(manifest, chat, tokenizer, messages);
    }

    /** Turns of users and answers by turns, which every chat template has. */
    private static int[] plainIds(
            Manifest manifest, Manifest.ChatTemplate chat, Tokenizer tokenizer, List<Message> messages) {
        IntList ids = new IntList();
        for (int i = 0; i < messages.size(); i++) {
            Message message = messages.get(i);
            if (!message.is(i % 2 == 0 ? "user" : "assistant") || !message.toolCalls.isEmpty()) {
                String what = message.toolCalls.isEmpty() ? message.role + " turn here" : "tool calls";
                throw new UsageException("message " + (i + 1) + ": this bundle has no " + what
                        + "; it takes user and assistant turns in alternation");
            }
            if (message.is("user")) {
                append(ids, Chat.ids(manifest, tokenizer, message.text(), ids.toArray()));
            } else {
                int[] end = Chat.endOfTurn(manifest.model.eosTokenIds, chat);
                append(ids, tokenizer.encodeUser(
                        message.text(), ids.get(ids.size() - 1), end.length > 0 ? end[0] : Tokenizer.NONE));
                append(ids, end);
            }
        }
        if (!messages.get(messages.size() - 1).is("user")) {
            throw new UsageException("message " + messages.size()
                    + ": the last must be a user's; this bundle cannot continue from any other");
        }
        return ids.toArray();
    }

    /** Text between two markers is encoded in one piece. */
    private static int[] encoded(List<Object> parts, Tokenizer tokenizer) {
        IntList ids = new IntList();
        StringBuilder text = new StringBuilder();
        for (int i = 0; i <= parts.size(); i++) {
            Object part = i < parts.size() ? parts.get(i) : Tokenizer.NONE;
            if (part instanceof String) {
                text.append(part);
                continue;
            }
            int marker = (Integer) part;
            if (text.length() > 0) {
                int before = ids.size() > 0 ? ids.get(ids.size() - 1) : Tokenizer.NONE;
                append(ids, tokenizer.encodeUser(text.toString(), before, marker));
                text.setLength(0);
            }
            if (i < parts.size()) {
                ids.add(marker);
            }
        }
        return ids.toArray();
    }

    /** A prefix as the chat template writes it for the turn after it: without thoughts and their markers, where it drops them. */
    static int[] withoutThoughts(Manifest manifest, int[] ids) {
        Roles roles = manifest.chat == null ? null : manifest.chat.roles;
        Roles.@Nullable Channel channel = roles == null || !roles.dropsThoughts ? null : roles.channel;
        if (channel == null) {
            return ids;
        }
        int[] kept = new int[ids.length];
        int count = 0;
        boolean inside = false;
        for (int id : ids) {
            inside = id != channel.close && (inside || id == channel.open);
            if (!inside && id != channel.close) {
                kept[count++] = id;
            }
        }
        return Arrays.copyOf(kept, count);
    }

    private static void append(IntList ids, int[] more) {
        ids.add(more, more.length);
    }
}
