package org.dgemma.tokenizer;

import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.util.Arrays;
import java.util.List;
import org.junit.Test;

/** Damaged files give a TokenizerException or a tokenizer that works, nothing else, and soon. */
public class TokenizerFuzzTest {
    private static final int FILES = 2002;
    private static final String TEXT = "  The quick fox, 123 <end_of_turn>\n\n漢字 🙂 e\u0301 ab abab \u0000\uE000";

    @Test(timeout = 120_000)
    public void damagedFiles() throws IOException {
        TokenizerVectors vectors = new TokenizerVectors();
        TokenizerVectors.SplitMix random = new TokenizerVectors.SplitMix(7);
        List<String> names = vectors.names();
        byte[][] files = new byte[names.size()][];
        for (int i = 0; i < files.length; i++) {
            files[i] = vectors.file(names.get(i));
        }
        int refused = 0;
        int worked = 0;
        for (int i = 0; i < FILES; i++) {
            int which = i % files.length;
            byte[] damaged = damage(files[which], random);
            try {
                Tokenizer tokenizer = vectors.tokenizer(names.get(which), damaged);
                worked++;
                use(tokenizer, random, vectors);
            } catch (TokenizerException error) {
                refused++;
                assertTrue(error.getMessage(), error.getMessage().indexOf('\n') < 0);
            }
        }
        assertTrue(refused + " refused, " + worked + " worked", refused > FILES / 10 && worked > FILES / 10);
    }

    private static void use(Tokenizer tokenizer, TokenizerVectors.SplitMix random, TokenizerVectors vectors) {
        int[] ids = TokenizerVectors.attempt(() -> tokenizer.encodeUser(TEXT));
        if (ids != null) {
            TokenizerVectors.attempt(() -> tokenizer.decode(ids));
            TokenizerVectors.attempt(() -> tokenizer.pieces(ids));
        }
        if (tokenizer.vocabSize() > 0) {
            int[] made = vectors.ids(random, tokenizer.vocabSize());
            TokenizerVectors.attempt(() -> tokenizer.decode(made));
        }
    }

    /** A few bytes changed, or a stretch left out or put in, or an end cut off; often near the beginning. */
    private static byte[] damage(byte[] file, TokenizerVectors.SplitMix random) {
        int at = random.below(random.below(2) == 0 ? Math.min(file.length, 400) : file.length);
        int length = Math.min(1 + random.below(40), file.length - at);
        byte[] damaged = file.clone();
        switch (random.below(5)) {
            case 0:
                return Arrays.copyOf(file, at);
            case 1:
                System.arraycopy(file, at + length, damaged, at, file.length - at - length);
                return Arrays.copyOf(damaged, file.length - length);
            case 2:
                damaged = Arrays.copyOf(file, file.length + length);
                System.arraycopy(file, at, damaged, at + length, file.length - at);
                return damaged;
            default:
                for (int i = 1 + random.below(4); i > 0; i--) {
                    damaged[Math.min(file.length - 1, at + random.below(64))] ^= (byte) (1 << random.below(8));
                }
                return damaged;
        }
    }
}
