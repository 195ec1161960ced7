package org.dgemma.runtime.engine;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.WritableByteChannel;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.dgemma.format.ProtoReader;

/** A protobuf message put together of pieces of another one, which are not copied until it is written. */
final class ProtoPieces {
    private final ByteBuffer data;
    private final List<ByteBuffer> parts = new ArrayList<>();
    private long size;

    ProtoPieces(ByteBuffer data) {
        this.data = data;
    }

    /** Append a field as it is. */
    void keep(ProtoReader field) {
        ByteBuffer part = data.duplicate();
        part.position(field.start()).limit(field.end());
        add(part);
    }

    /** Append a field that holds a message. */
    void message(int number, ProtoPieces inner) {
        ByteBuffer head = ByteBuffer.allocate(20);
        putVarint((long) number << 3 | 2, head);
        putVarint(inner.size, head);
        head.flip();
        add(head);
        parts.addAll(inner.parts);
        size += inner.size;
    }

    /** Append a field that holds a string. */
    void text(int number, String value) {
        bytes(number, value.getBytes(StandardCharsets.UTF_8));
    }

    /** Append a field that holds bytes. */
    void bytes(int number, byte[] value) {
        ProtoPieces inner = new ProtoPieces(data);
        inner.add(ByteBuffer.wrap(value));
        message(number, inner);
    }

    /** Append a field that holds an integer. */
    void number(int number, long value) {
        ByteBuffer field = ByteBuffer.allocate(20);
        putVarint((long) number << 3, field);
        putVarint(value, field);
        field.flip();
        add(field);
    }

    /** A direct buffer; throws IllegalArgumentException above 2 GB, which no message can have. */
    ByteBuffer toBuffer() {
        if (size > Integer.MAX_VALUE) {
            throw new IllegalArgumentException("a message of " + size + " bytes");
        }
        ByteBuffer out = ByteBuffer.allocateDirect((int) size);
        for (ByteBuffer part : parts) {
            out.put(part.duplicate());
        }
        out.flip();
        return out;
    }

    void writeTo(WritableByteChannel out) throws IOException {
        for (ByteBuffer part : parts) {
            for (ByteBuffer rest = part.duplicate(); rest.hasRemaining(); ) {
                out.write(rest);
            }
        }
    }

    private void add(ByteBuffer part) {
        parts.add(part);
        size += part.remaining();
    }

    private static void putVarint(long number, ByteBuffer out) {
        long rest = number;
        for (; rest > 127; rest >>>= 7) {
            out.put((byte) (rest & 127 | 128));
        }
        out.put((byte) rest);
    }
}
