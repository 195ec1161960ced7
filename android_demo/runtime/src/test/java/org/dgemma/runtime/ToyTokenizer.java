package org.dgemma.runtime;

import java.nio.charset.StandardCharsets;
import org.dgemma.tokenizer.Tokenizer;

/** Bytes of UTF-8 as ids from 100; all other ids are markers without text. */
final class ToyTokenizer implements Tokenizer {
    static final int FIRST = 100;

    @Override
    public int vocabSize() {
        return ToyBundle.VOCAB;
    }

    @Override
    public int[] encode(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        int[] ids = new int[bytes.length];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = FIRST + (bytes[i] & 0xff);
        }
        return ids;
    }

    @Override
    public int[] encodeUser(String text, int before, int after) {
        return encode(text);
    }

    @Override
    public String decode(int[] ids) {
        byte[] bytes = new byte[ids.length];
        int count = 0;
        for (int id : ids) {
            if (id >= FIRST && id < FIRST + 256) {
                bytes[count++] = (byte) (id - FIRST);
            }
        }
        return new String(bytes, 0, count, StandardCharsets.UTF_8);
    }

    @Override
    public boolean writes(int id) {
        return id >= FIRST && id < FIRST + 256;
    }

    @Override
    public byte[] bytes(int id) {
        return new byte[] {(byte) (id - FIRST)};
    }

    @Override
    public String[] pieces(int[] ids) {
        String[] pieces = new String[ids.length];
        for (int i = 0; i < ids.length; i++) {
            pieces[i] = decode(new int[] {ids[i]});
        }
        return pieces;
    }
}
