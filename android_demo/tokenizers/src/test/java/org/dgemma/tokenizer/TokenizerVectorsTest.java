package org.dgemma.tokenizer;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.Test;

/** The ids and texts of the Python runtime, for every kind of tokenizer file. */
public class TokenizerVectorsTest {
    private final TokenizerVectors vectors;

    public TokenizerVectorsTest() throws IOException {
        vectors = new TokenizerVectors();
    }

    @Test
    public void examplesAreEqual() throws IOException {
        for (String name : vectors.names()) {
            Tokenizer tokenizer = vectors.tokenizer(name);
            assertEquals(name, ((Long) vectors.model(name).get("vocab_size")).intValue(), tokenizer.vocabSize());
            for (Object example : (List<?>) vectors.model(name).get("examples")) {
                List<?> row = (List<?>) example;
                String text = (String) row.get(0);
                int[] ids = TokenizerVectors.attempt(() -> tokenizer.encode(text));
                if (row.get(1) == null) {
                    assertNull(name + ": " + text, ids);
                    continue;
                }
                assertEquals(name + ": " + text, row.get(1).toString(), Arrays.toString(ids));
                assertEquals(name + ": " + text, row.get(2), tokenizer.decode(ids));
                assertArrayEquals(name + ": " + text, ((List<?>) row.get(3)).toArray(), tokenizer.pieces(ids));
            }
        }
    }

    @Test
    public void everyBlockOfStringsIsEqual() throws IOException {
        int strings = 0;
        List<String> wrong = new ArrayList<>();
        for (String name : vectors.names()) {
            Tokenizer tokenizer = vectors.tokenizer(name);
            List<?> blocks = (List<?>) vectors.model(name).get("blocks");
            if (vectors.longChecksum(name, tokenizer) != (Long) vectors.model(name).get("long")) {
                wrong.add(name + " long text");
            }
            for (int block = 0; block < blocks.size(); block++) {
                if (vectors.checksum(name, tokenizer, block) != (Long) blocks.get(block)) {
                    wrong.add(name + " block " + block);
                }
                strings += vectors.blockSize();
            }
        }
        assertTrue(wrong.toString(), wrong.isEmpty());
        assertTrue("strings: " + strings, strings >= 10_000);
    }

    /** Control: a model that differs in one piece, or in one character of its settings, is found out in most blocks. */
    @Test
    public void aChangedModelIsFoundOut() throws IOException {
        byte[] changed = vectors.file("sp-bpe-bytes");
        changed[indexOf(changed, "the")] = '~';
        assertFoundOut("sp-bpe-bytes", changed);
        String settings = new String(vectors.file("hf-gemma"), StandardCharsets.UTF_8);
        String other = settings.replace("\"content\":\"\u2581\"", "\"content\":\"_\"");
        assertNotEquals(settings, other);
        assertFoundOut("hf-gemma", other.getBytes(StandardCharsets.UTF_8));
    }

    private void assertFoundOut(String name, byte[] changed) throws IOException {
        Tokenizer tokenizer = vectors.tokenizer(name, changed);
        List<?> blocks = (List<?>) vectors.model(name).get("blocks");
        int different = 0;
        for (int block = 0; block < blocks.size(); block++) {
            different += vectors.checksum(name, tokenizer, block) == (Long) blocks.get(block) ? 0 : 1;
        }
        assertTrue(name + ": " + different + " of " + blocks.size(), different > blocks.size() / 2);
    }

    /** Where the piece of these letters begins: a length byte stands before it. */
    private static int indexOf(byte[] file, String piece) {
        for (int at = 1; at + piece.length() < file.length; at++) {
            boolean found = file[at - 1] == piece.length();
            for (int i = 0; found && i < piece.length(); i++) {
                found = file[at + i] == piece.charAt(i);
            }
            if (found) {
                return at;
            }
        }
        throw new AssertionError(piece);
    }
}
