package org.dgemma.tokenizer;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/** Tokens and ids of a `tokenizer.json` model, packed. */
final class HfVocabulary {
    final PackedStrings strings;
    private final StringIndex index;
    private final Ints ids;
    private int[] slots = {};
    private int highest = -1;

    HfVocabulary(int bytes) {
        strings = new PackedStrings(1024, bytes);
        index = new StringIndex(strings, 1024);
        ids = new Ints(1024);
    }

    /** The last id of a token wins. */
    void put(byte[] text, int from, int to, int id) {
        int slot = index.find(text, from, to);
        if (slot >= 0) {
            ids.set(slot, id);
        } else {
            index.putIfAbsent(strings.add(text, from, to));
            ids.add(id);
        }
        highest = Math.max(highest, id);
    }

    /** Call once, after the last {@link #put}: finds the tokens of ids. */
    void close() {
        if (highest > 16L * ids.size() + 65536) {
            throw new TokenizerException("its ids are too far apart");
        }
        strings.trim();
        slots = new int[highest + 1];
        Arrays.fill(slots, -1);
        for (int slot = 0; slot < ids.size(); slot++) {
            slots[ids.get(slot)] = slot;
        }
    }

    /** Different tokens. */
    int size() {
        return ids.size();
    }

    /** Id of the token, or -1. */
    int id(byte[] text, int from, int to) {
        int slot = index.find(text, from, to);
        return slot < 0 ? -1 : ids.get(slot);
    }

    int id(String token) {
        byte[] text = Utf8.encode(token);
        return id(text, 0, text.length);
    }

    int idOfSlot(int slot) {
        return ids.get(slot);
    }

    @Nullable String token(int id) {
        return id < 0 || id >= slots.length || slots[id] < 0 ? null : strings.text(slots[id]);
    }

    /** Ids of &lt;0x00&gt; … &lt;0xFF&gt;, -1 for those that are not there. */
    int[] byteIds() {
        int[] found = new int[256];
        for (int b = 0; b < 256; b++) {
            byte[] token = String.format(Locale.ROOT, "<0x%02X>", b).getBytes(StandardCharsets.US_ASCII);
            found[b] = id(token, 0, token.length);
        }
        return found;
    }

    /** Adds the byte tokens of text from…to; false, and nothing added, unless every one of them is there. */
    static boolean addBytes(int[] byteIds, byte[] text, int from, int to, Ints out) {
        for (int i = from; i < to; i++) {
            if (byteIds[text[i] & 0xFF] < 0) {
                return false;
            }
        }
        for (int i = from; i < to; i++) {
            out.add(byteIds[text[i] & 0xFF]);
        }
        return true;
    }
}
