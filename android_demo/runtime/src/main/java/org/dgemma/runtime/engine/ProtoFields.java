package org.dgemma.runtime.engine;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/**
 * Walks the fields of one protobuf message: a row of tags, perhaps lengths, and bytes
 * (protobuf.dev/programming-guides/encoding). Throws IndexOutOfBoundsException where the bytes are no message.
 */
final class ProtoFields {
    private final ByteBuffer data;
    private final int limit;
    private int at;

    /** Of the field that {@link #next} has found: its number, where it starts, where its bytes start, where it ends. */
    int number;

    int start;
    int value;
    int end;
    /** The field's value, where it is a varint. */
    long varint;

    ProtoFields(ByteBuffer data, int from, int limit) {
        this.data = data;
        this.at = from;
        this.limit = limit;
    }

    /** The message inside the field that was found. */
    ProtoFields inside() {
        return new ProtoFields(data, value, end);
    }

    boolean next() {
        if (at >= limit) {
            return false;
        }
        start = at;
        long tag = readVarint();
        number = (int) (tag >>> 3);
        value = at;
        long last;
        switch ((int) (tag & 7)) {
            case 0:
                varint = readVarint();
                last = at;
                break;
            case 1:
                last = at + 8L;
                break;
            case 2:
                long length = readVarint();
                value = at;
                last = length < 0 ? -1 : at + length;
                break;
            case 5:
                last = at + 4L;
                break;
            default:
                throw new IndexOutOfBoundsException("wire type " + (tag & 7));
        }
        if (last < at || last > limit) {
            throw new IndexOutOfBoundsException("a field is cut off");
        }
        end = (int) last;
        at = end;
        return true;
    }

    byte[] bytes() {
        byte[] found = new byte[end - value];
        ByteBuffer view = data.duplicate();
        view.position(value);
        view.get(found);
        return found;
    }

    String text() {
        return new String(bytes(), StandardCharsets.UTF_8);
    }

    /** Seven bits a byte, least first. */
    private long readVarint() {
        long found = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            if (at >= limit) {
                throw new IndexOutOfBoundsException("a number is cut off");
            }
            byte next = data.get(at++);
            found |= (long) (next & 127) << shift;
            if (next >= 0) {
                return found;
            }
        }
        throw new IndexOutOfBoundsException("a number is too long");
    }
}
