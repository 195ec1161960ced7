package org.dgemma.format;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import org.junit.Test;

/** Messages written by hand, after protobuf.dev/programming-guides/encoding. */
public class ProtoReaderTest {
    private static ProtoReader reader(int... bytes) {
        byte[] data = new byte[bytes.length];
        for (int i = 0; i < data.length; i++) {
            data[i] = (byte) bytes[i];
        }
        return new ProtoReader(ByteBuffer.wrap(data));
    }

    @Test
    public void fieldsOfEveryType() {
        ProtoReader fields = reader(0x08, 0x96, 0x01, 0x12, 0x02, 'h', 'i', 0x1D, 0, 0, 0x80, 0x3F, 0x22, 0x02, 0x28, 0x01);
        assertTrue(fields.next());
        assertEquals(1, fields.number());
        assertEquals(150, fields.integer());
        assertEquals(150, fields.integer());
        assertTrue(fields.next());
        assertEquals("hi", fields.text());
        assertArrayEquals(new byte[] {'h', 'i'}, fields.bytes());
        assertArrayEquals(new int[] {3, 5, 7}, new int[] {fields.start(), fields.value(), fields.end()});
        assertTrue(fields.next());
        assertEquals(1f, fields.float32(), 0);
        assertTrue(fields.next());
        ProtoReader inner = fields.message();
        assertTrue(inner.next());
        assertEquals(5, inner.number());
        assertTrue(inner.bool());
        assertFalse(inner.next());
        assertFalse(fields.next());
    }

    @Test
    public void minusOneTakesTenBytes() {
        ProtoReader fields = reader(0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1);
        assertTrue(fields.next());
        assertEquals(-1, fields.integer());
    }

    @Test
    public void whatIsNoMessageIsRefused() {
        refused("cut off", 0x08);
        refused("cut off", 0x12, 3, 'h', 'i');
        refused("cut off", 0x1D, 0, 0);
        refused("cut off", 0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1);
        refused("too long", 0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1);
        refused("wire type 3", 0x0B);
        refused("number 0", 0x00, 1);
        ProtoReader fields = reader(0x08, 1);
        assertTrue(fields.next());
        assertThrows(ProtoException.class, fields::text);
        assertThrows(ProtoException.class, fields::float32);
    }

    private static void refused(String why, int... bytes) {
        String message = assertThrows(ProtoException.class, () -> reader(bytes).next()).getMessage();
        assertTrue(message, message.contains(why));
    }
}
