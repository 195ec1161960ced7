package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Random;
import org.junit.Test;

public class TextStreamTest {
    @Test
    public void incompleteCharactersAndTrailingSpacesWait() {
        TextStream stream = new TextStream(false);
        assertEquals("a", stream.grow("a \uFFFD\uFFFD"));
        assertEquals("", stream.grow("a "));
        assertEquals(" \u20ACb", stream.grow("a \u20ACb\uFFFD"));
        assertEquals("a true one is told in the end", "\uFFFD", stream.finish("a \u20ACb\uFFFD"));
        assertEquals("", stream.finish("a \u20ACb\uFFFD"));
    }

    @Test
    public void aDecoderThatChangesWhatWasToldGetsTheRest() {
        TextStream stream = new TextStream(false);
        assertEquals("ab", stream.grow("ab"));
        assertEquals("", stream.grow("aXc"));
        assertEquals("Xc", stream.finish("aXc"));
        TextStream pair = new TextStream(false);
        pair.grow("\uD83D\uDE00");
        assertEquals("whole code points only", "\uD83D\uDE01", pair.finish("\uD83D\uDE01"));
    }

    @Test
    public void piecesJoinToTheTextWhereverBytesAreCut() {
        Random random = new Random(1);
        String[] characters = {"a", " ", "\u00e9", "\u20ac", "\uD83D\uDE00", "\n", "\uFFFD"};
        boolean naiveDiffers = false;
        for (int round = 0; round < 2000; round++) {
            StringBuilder text = new StringBuilder();
            for (int i = random.nextInt(20); i >= 0; i--) {
                text.append(characters[random.nextInt(characters.length)]);
            }
            byte[] bytes = text.toString().getBytes(StandardCharsets.UTF_8);
            TextStream stream = new TextStream(false);
            StringBuilder joined = new StringBuilder();
            StringBuilder naive = new StringBuilder();
            String before = "";
            for (int end = 0; end < bytes.length; end += 1 + random.nextInt(5)) {
                String sofar = new String(Arrays.copyOf(bytes, end), StandardCharsets.UTF_8);
                String piece = stream.grow(sofar);
                assertTrue(piece.isEmpty() || !Character.isHighSurrogate(piece.charAt(piece.length() - 1)));
                joined.append(piece);
                naive.append(sofar.substring(Math.min(before.length(), sofar.length())));
                before = sofar;
            }
            joined.append(stream.finish(text.toString()));
            naive.append(text.substring(Math.min(before.length(), text.length())));
            assertEquals(text.toString(), joined.toString());
            naiveDiffers |= !naive.toString().contentEquals(text);
        }
        assertTrue("control: pieces that are not held back must not join", naiveDiffers);
    }
}
