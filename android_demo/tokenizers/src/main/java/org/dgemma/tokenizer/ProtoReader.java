package org.dgemma.tokenizer;

import java.util.Arrays;

/** Fields of one protocol-buffer message, in place; every length is checked against the message that holds it. */
final class ProtoReader {
    final byte[] bytes;
    private final int end;
    private int at;
    private int wireType;
    private int from;

    ProtoReader(byte[] bytes, int from, int to) {
        this.bytes = bytes;
        this.at = from;
        this.end = to;
    }

    /** Moves to the next field and returns its number, 0 at the end. */
    int next() {
        if (at == end) {
            return 0;
        }
        long tag = varint();
        wireType = (int) tag & 7;
        long field = tag >>> 3;
        if (field == 0 || field > 0x1FFFFFFF) {
            throw damaged();
        }
        from = at;
        switch (wireType) {
            case 0:
                varint();
                break;
            case 1:
                skip(8);
                break;
            case 2:
                long length = varint();
                from = at;
                skip(length);
                break;
            case 5:
                skip(4);
                break;
            default:
                throw damaged();
        }
        return (int) field;
    }

    long integer() {
        require(0);
        int after = at;
        at = from;
        long value = varint();
        at = after;
        return value;
    }

    boolean bool() {
        return integer() != 0;
    }

    float float32() {
        require(5);
        int bits = 0;
        for (int i = 3; i >= 0; i--) {
            bits = bits << 8 | bytes[from + i] & 0xFF;
        }
        return Float.intBitsToFloat(bits);
    }

    ProtoReader message() {
        require(2);
        return new ProtoReader(bytes, from, at);
    }

    /** First byte of a field of bytes; it ends at {@link #dataEnd}. */
    int dataStart() {
        require(2);
        return from;
    }

    int dataEnd() {
        return at;
    }

    byte[] data() {
        require(2);
        return Arrays.copyOfRange(bytes, from, at);
    }

    private long varint() {
        long value = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            if (at >= end) {
                throw damaged();
            }
            byte b = bytes[at++];
            value |= (long) (b & 0x7F) << Math.min(shift, 63);
            if (b >= 0) {
                return value;
            }
        }
        throw damaged();
    }

    private void skip(long length) {
        if (length < 0 || length > end - at) {
            throw damaged();
        }
        at += (int) length;
    }

    private void require(int type) {
        if (wireType != type) {
            throw damaged();
        }
    }

    private static TokenizerException damaged() {
        return new TokenizerException("it is not a SentencePiece model, or is damaged");
    }
}
