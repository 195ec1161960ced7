package org.dgemma.format;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/**
 * Walks the fields of one protocol-buffer message in place: a row of tags, perhaps lengths, and bytes
 * (protobuf.dev/programming-guides/encoding). Every length is checked against the message that holds it; what is no
 * message, or a field of another type than is asked for, is a ProtoException.
 */
public final class ProtoReader {
    private static final int MOST_FIELDS = 0x1FFFFFFF;

    private final ByteBuffer data;
    private final int limit;
    private int at;

    // Of the field that next() has found.
    private int number;
    private int wireType;
    private int start;
    private int value;

    /** A message that is all of the data; the buffer's position and limit are not moved. */
    public ProtoReader(ByteBuffer data) {
        this(data, 0, data.limit());
    }

    private ProtoReader(ByteBuffer data, int from, int limit) {
        this.data = data;
        this.at = from;
        this.limit = limit;
    }

    /** Moves to the next field; false at the end. */
    public boolean next() {
        if (at >= limit) {
            return false;
        }
        start = at;
        long tag = varint();
        if (tag >>> 3 == 0 || tag >>> 3 > MOST_FIELDS) {
            throw new ProtoException("a field has the number " + (tag >>> 3), start);
        }
        number = (int) (tag >>> 3);
        wireType = (int) tag & 7;
        value = at;
        switch (wireType) {
            case 0:
                varint();
                break;
            case 1:
                skip(8);
                break;
            case 2:
                long length = varint();
                value = at;
                skip(length);
                break;
            case 5:
                skip(4);
                break;
            default:
                throw new ProtoException("a field has the wire type " + wireType, start);
        }
        return true;
    }

    public int number() {
        return number;
    }

    /** Where the field's tag starts. */
    public int start() {
        return start;
    }

    /** Where its bytes start, behind tag and length. */
    public int value() {
        return value;
    }

    /** Where it ends. */
    public int end() {
        return at;
    }

    public long integer() {
        require(0);
        int after = at;
        at = value;
        long found = varint();
        at = after;
        return found;
    }

    public boolean bool() {
        return integer() != 0;
    }

    public float float32() {
        require(5);
        int bits = 0;
        for (int i = 3; i >= 0; i--) {
            bits = bits << 8 | data.get(value + i) & 0xFF;
        }
        return Float.intBitsToFloat(bits);
    }

    /** The message inside the field. */
    public ProtoReader message() {
        require(2);
        return new ProtoReader(data, value, at);
    }

    public byte[] bytes() {
        require(2);
        byte[] found = new byte[at - value];
        ByteBuffer view = data.duplicate();
        view.position(value);
        view.get(found);
        return found;
    }

    public String text() {
        return new String(bytes(), StandardCharsets.UTF_8);
    }

    /** Seven bits a byte, least first; of a tenth byte one bit. */
    private long varint() {
        long found = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            if (at >= limit) {
                throw new ProtoException("a number is cut off", at);
            }
            byte next = data.get(at++);
            found |= shift < 64 ? (long) (next & 0x7F) << shift : 0;
            if (next >= 0) {
                return found;
            }
        }
        throw new ProtoException("a number is too long", at);
    }

    private void skip(long length) {
        if (length < 0 || length > limit - at) {
            throw new ProtoException("a field is cut off", start);
        }
        at += (int) length;
    }

    private void require(int type) {
        if (wireType != type) {
            throw new ProtoException("field " + number + " has the wire type " + wireType + ", not " + type, start);
        }
    }
}
