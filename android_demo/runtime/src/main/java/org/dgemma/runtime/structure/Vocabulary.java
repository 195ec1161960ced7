package org.dgemma.runtime.structure;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.dgemma.runtime.UsageException;
import org.dgemma.tokenizer.Tokenizer;

/**
 * The bytes that each id of a tokenizer writes. V ids. It asks the tokenizer to decode, so that only the tokenizer needs to
 * know its rules for spaces.
 */
final class Vocabulary {
    private static final char REPLACEMENT = '\uFFFD';
    private static final byte[] NONE = {};
    /** Markers have bytes that no UTF-8 has, from this one on. */
    private static final int MARKER = 0xF5;

    /** [V] what an answer's first id writes; some tokenizers drop a space there. Empty where no answer may hold an id. */
    final byte[][] first;
    /** [V] of all other ids; the same array where an answer's first id writes what it writes elsewhere. */
    final byte[][] later;
    /**
     * Ids by rank: of ids that lead to the same state the one with the lowest rank stands for all: pieces before single bytes,
     * shorter before longer ones, then in their order.
     */
    final int[] ranked;

    /** Of pieces as they are. */
    Vocabulary(byte[][] first, byte[][] later, boolean[] single) {
        this.first = first;
        this.later = later;
        Integer[] order = new Integer[later.length];
        Arrays.setAll(order, id -> id);
        Arrays.sort(order, (a, b) -> single[a] != single[b] ? Boolean.compare(single[a], single[b])
                : later[a].length != later[b].length ? Integer.compare(later[a].length, later[b].length)
                : Integer.compare(a, b));
        ranked = Arrays.stream(order).mapToInt(id -> id).toArray();
    }

    /**
     * Of all ids below {@code size}, the model's.
     *
     * @param markers ids that have the bytes of markers, which no other has
     * @throws UsageException the tokenizer's ids have no text of their own
     * @throws Cancelled also Patience.Late
     */
    static Vocabulary of(Tokenizer tokenizer, int size, int[] markers, Patience patience) {
        int anchor = anchor(tokenizer);
        String before = tokenizer.decode(new int[] {anchor});
        byte[][] first = new byte[size][];
        byte[][] later = new byte[size][];
        boolean[] single = new boolean[size];
        boolean even = true;
        Arrays.fill(first, NONE);
        Arrays.fill(later, NONE);
        for (int id = 0; id < Math.min(size, tokenizer.vocabSize()); id++) {
            patience.poll();
            if (!tokenizer.writes(id)) {
                continue;
            }
            byte[] exact = tokenizer.bytes(id);
            single[id] = exact != null && exact.length == 1;
            if (exact != null && !isText(exact)) {
                first[id] = mayBeUtf8(exact) ? exact : NONE;
                later[id] = first[id];
                continue;
            }
            String alone = tokenizer.decode(new int[] {id});
            String behind = tokenizer.decode(new int[] {anchor, id});
            if (alone.indexOf(REPLACEMENT) < 0 && behind.startsWith(before)) {
                String text = behind.substring(before.length());
                later[id] = text.getBytes(StandardCharsets.UTF_8);
                first[id] = text.equals(alone) ? later[id] : alone.getBytes(StandardCharsets.UTF_8);
                even &= text.equals(alone);
            }
        }
        for (int i = 0; i < markers.length; i++) {
            later[markers[i]] = new byte[] {(byte) (MARKER + i)};
            first[markers[i]] = later[markers[i]];
        }
        return new Vocabulary(even ? later : first, later, single);
    }

    private static boolean mayBeUtf8(byte[] bytes) {
        boolean may = true;
        for (byte each : bytes) {
            may &= (each & 0xFF) < MARKER;
        }
        return may;
    }

    private static boolean isText(byte[] bytes) {
        return Arrays.equals(new String(bytes, StandardCharsets.UTF_8).getBytes(StandardCharsets.UTF_8), bytes);
    }

    /** An id that stands before another one whose text is wanted as it is inside an answer. */
    private static int anchor(Tokenizer tokenizer) {
        for (String text : new String[] {"a", "0", "e", "."}) {
            int[] ids = tokenizer.encodeUser(text);
            int last = ids.length == 0 ? Tokenizer.NONE : ids[ids.length - 1];
            if (last >= 0 && tokenizer.writes(last) && tokenizer.decode(new int[] {last}).trim().equals(text)) {
                return last;
            }
        }
        throw new UsageException("structured answers need a tokenizer that writes each id by itself, with ids for single "
                + "letters; leave regex, jsonSchema and choices out");
    }

    /** What an id writes within an answer, empty for none. */
    byte[] text(int id) {
        return id >= 0 && id < later.length ? later[id] : NONE;
    }

    /** What an id writes as an answer's first, empty for none. */
    byte[] firstText(int id) {
        return id >= 0 && id < first.length ? first[id] : NONE;
    }
}
