package org.dgemma.format;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Random;
import org.junit.Test;

/** JSON taken apart without a tree, by the reader that also makes trees. */
public class JsonReaderTest {
    private static JsonReader reader(String text) {
        return new JsonReader(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String bytes(JsonReader reader) {
        reader.bytes();
        return new String(reader.held(), reader.from(), reader.to() - reader.from(), StandardCharsets.UTF_8);
    }

    @Test
    public void aTextIsTakenApart() {
        JsonReader reader = reader(" {\"a\" : [1, \"x\\n\\ud83d\\ude00é\"], \"b\": {\"c\": null}, \"d\": 7} ");
        reader.open('{');
        assertTrue(reader.more('}', true));
        assertEquals("a", reader.key());
        reader.open('[');
        assertTrue(reader.more(']', true));
        assertEquals(1, reader.natural());
        assertTrue(reader.more(']', false));
        assertEquals("x\n\ud83d\ude00é", bytes(reader));
        assertFalse(reader.more(']', false));
        assertTrue(reader.more('}', false));
        assertEquals("b", reader.key());
        assertEquals("{c=null}", String.valueOf(reader.tree()));
        assertTrue(reader.more('}', false));
        reader.bytes();
        reader.open(':');
        byte[] key = Arrays.copyOfRange(reader.held(), reader.from(), reader.to());
        assertEquals(7L, reader.number());
        assertArrayEquals(new byte[] {'d'}, key);
        assertFalse(reader.more('}', false));
        reader.end();
    }

    /** The naive twin of {@link JsonReader#bytes} is the string, encoded. */
    @Test
    public void bytesAreTheStringsUtf8() {
        Random random = new Random(1);
        String[] pieces = {"a", "é", "語", "\ud83d\ude00", "\\n", "\\\"", "\\\\", "\\u00e9", "\\u8a9e", "\\ud83d\\ude00", " ", "/"};
        for (int i = 0; i < 500; i++) {
            StringBuilder text = new StringBuilder("\"");
            for (int n = random.nextInt(200); n > 0; n--) {
                text.append(pieces[random.nextInt(pieces.length)]);
            }
            text.append('"');
            assertEquals(Json.parse(text.toString()), bytes(reader(text.toString())));
        }
    }

    @Test
    public void aTreeMayHaveLoneSurrogatesAndBytesMayNot() {
        for (String text : Arrays.asList("\"\\ud800\"", "\"\\ud800\\n\"", "\"\\udc00\\ud800\"", "\"\\ud800\\ud800\"")) {
            assertTrue(Character.isSurrogate(reader(text).string().charAt(0)));
            assertThrows(text, JsonException.class, () -> reader(text).bytes());
        }
    }

    @Test
    public void whatIsNotUtf8IsRefusedWhereItStands() {
        byte[] text = {'"', 'a', (byte) 0xED, (byte) 0xA0, (byte) 0x80, '"'};
        assertEquals("not UTF-8 at byte 1", assertThrows(JsonException.class, () -> new JsonReader(text).string()).getMessage());
        assertThrows(JsonException.class, () -> new JsonReader(text).bytes());
        assertThrows(JsonException.class, () -> Json.parse(new byte[] {(byte) 0xEF, (byte) 0xBB, (byte) 0xBF, '1'}));
        assertThrows(JsonException.class, () -> Json.parse("\"\ud800\""));
    }

    @Test
    public void naturalsAreIntegersFromZero() {
        assertEquals(Integer.MAX_VALUE, reader("2147483647").natural());
        for (String text : Arrays.asList("2147483648", "-1", "1.0", "1e3", "NaN", "99999999999999999999", "x", "")) {
            assertThrows(text, JsonException.class, () -> reader(text).natural());
        }
    }
}
