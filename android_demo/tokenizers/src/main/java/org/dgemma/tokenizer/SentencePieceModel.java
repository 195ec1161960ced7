package org.dgemma.tokenizer;

import java.nio.ByteBuffer;
import java.util.Arrays;
import org.dgemma.format.ProtoException;
import org.dgemma.format.ProtoReader;
import org.jspecify.annotations.Nullable;

/** What a SentencePiece `.model` holds: a protocol buffer, sentencepiece_model.proto of google/sentencepiece. */
final class SentencePieceModel {
    static final int NORMAL = 1;
    static final int UNKNOWN = 2;
    static final int CONTROL = 3;
    static final int USER_DEFINED = 4;
    static final int UNUSED = 5;
    static final int BYTE = 6;

    static final int UNIGRAM = 1;
    static final int BPE = 2;
    static final int WORD = 3;
    static final int CHAR = 4;

    final PackedStrings pieces;
    final SentencePieceNormalizer normalizer = new SentencePieceNormalizer();
    final SentencePieceNormalizer denormalizer = new SentencePieceNormalizer();
    /** Ids of pieces that a text can be cut into, by content. */
    final StringIndex ordinary;
    /** Ids of control, unknown and byte pieces, by content; they win over ordinary ones. */
    final StringIndex reserved;
    /** Ids of the pieces of the 256 bytes, empty without byte fallback. */
    int[] byteIds = {};
    int unknown = -1;
    int modelType = UNIGRAM;
    byte[] unknownSurface = {' ', (byte) 0xE2, (byte) 0x81, (byte) 0x87, ' '};

    private boolean byteFallback;
    private float[] scores = new float[1024];
    private byte[] types = new byte[1024];

    SentencePieceModel(byte[] file) {
        pieces = new PackedStrings(1024, file.length / 3);
        try {
            read(new ProtoReader(ByteBuffer.wrap(file)), file);
        } catch (ProtoException error) {
            throw new TokenizerException("it is not a SentencePiece model, or is damaged: " + error.getMessage(), error);
        }
        scores = Arrays.copyOf(scores, pieces.size());
        types = Arrays.copyOf(types, pieces.size());
        pieces.trim();
        ordinary = new StringIndex(pieces, pieces.size());
        reserved = new StringIndex(pieces, 512);
        index();
        normalizer.symbols = symbols();
        normalizer.pieces = pieces;
    }

    int size() {
        return pieces.size();
    }

    float score(int id) {
        return scores[id];
    }

    int type(int id) {
        return types[id];
    }

    boolean isOrdinary(int id) {
        return types[id] == NORMAL || types[id] == USER_DEFINED || types[id] == UNUSED;
    }

    /** Id of the piece with this content, the unknown piece's if there is none. */
    int id(byte[] text, int from, int to) {
        int id = reserved.find(text, from, to);
        if (id < 0) {
            id = ordinary.find(text, from, to);
        }
        return id < 0 ? unknown : id;
    }

    /** Length of the character or user-defined symbol at `from`; the sign is minus for a symbol. */
    int step(byte[] text, int from, int to) {
        int symbol = normalizer.symbols == null ? -1 : normalizer.symbols.longest(text, from, to);
        return symbol >= 0 ? -pieces.length(symbol) : Utf8.step(text, from, to);
    }

    private void read(ProtoReader fields, byte[] file) {
        while (fields.next()) {
            switch (fields.number()) {
                case 1:
                    readPiece(fields.message(), file);
                    break;
                case 2:
                    readTrainer(fields.message());
                    break;
                case 3:
                    readNormalizer(fields.message(), normalizer);
                    break;
                case 5:
                    readNormalizer(fields.message(), denormalizer);
                    break;
                default:
                    break; // self-test and extensions
            }
        }
    }

    private void readPiece(ProtoReader fields, byte[] file) {
        int from = 0;
        int to = 0;
        float score = 0;
        int type = NORMAL;
        while (fields.next()) {
            int field = fields.number();
            if (field == 1) {
                from = fields.value();
                to = fields.end();
            } else if (field == 2) {
                score = fields.float32();
            } else if (field == 3) {
                long value = fields.integer();
                type = value >= NORMAL && value <= BYTE ? (int) value : type;
            }
        }
        int id = pieces.add(file, from, to);
        if (id == scores.length) {
            scores = Arrays.copyOf(scores, id * 2);
            types = Arrays.copyOf(types, id * 2);
        }
        scores[id] = score;
        types[id] = (byte) type;
    }

    private void readTrainer(ProtoReader fields) {
        while (fields.next()) {
            int field = fields.number();
            if (field == 3) {
                long value = fields.integer();
                modelType = value >= UNIGRAM && value <= CHAR ? (int) value : modelType;
            } else if (field == 24) {
                normalizer.suffix = fields.bool();
            } else if (field == 35) {
                byteFallback = fields.bool();
            } else if (field == 44) {
                unknownSurface = fields.bytes();
            }
        }
    }

    private static void readNormalizer(ProtoReader fields, SentencePieceNormalizer normalizer) {
        while (fields.next()) {
            int field = fields.number();
            if (field == 2) {
                byte[] blob = fields.bytes();
                normalizer.charsMap = blob.length == 0 ? null : new CharsMap(blob);
            } else if (field == 3) {
                normalizer.addDummyPrefix = fields.bool();
            } else if (field == 4) {
                normalizer.removeExtraWhitespaces = fields.bool();
            } else if (field == 5) {
                normalizer.escapeWhitespaces = fields.bool();
            }
        }
    }

    private void index() {
        int[] ids = new int[256];
        Arrays.fill(ids, -1);
        for (int id = 0; id < size(); id++) {
            if (pieces.length(id) == 0) {
                throw new TokenizerException("piece " + id + " is empty");
            }
            if ((isOrdinary(id) ? ordinary : reserved).putIfAbsent(id) >= 0) {
                throw new TokenizerException("piece " + id + " occurs twice");
            }
            if (types[id] == UNKNOWN) {
                if (unknown >= 0) {
                    throw new TokenizerException("it has two unknown pieces");
                }
                unknown = id;
            } else if (types[id] == BYTE) {
                int value = byteValue(id);
                if (!byteFallback || value < 0) {
                    throw new TokenizerException("byte piece " + id + " is wrong");
                }
                ids[value] = id;
            }
        }
        if (unknown < 0) {
            throw new TokenizerException("it has no unknown piece");
        }
        if (byteFallback) {
            for (int id : ids) {
                if (id < 0) {
                    throw new TokenizerException("it has no piece for every byte");
                }
            }
            byteIds = ids;
        }
        if (modelType == UNIGRAM && ordinary.size() == 0) {
            throw new TokenizerException("it has no pieces");
        }
    }

    /** The byte that a piece such as <0x0A> stands for, or -1. */
    int byteValue(int id) {
        byte[] text = pieces.bytes();
        int at = pieces.start(id);
        if (pieces.length(id) != 6 || text[at] != '<' || text[at + 1] != '0' || text[at + 2] != 'x') {
            return -1;
        }
        int high = "0123456789ABCDEF".indexOf(text[at + 3]);
        int low = "0123456789ABCDEF".indexOf(text[at + 4]);
        return high < 0 || low < 0 || text[at + 5] != '>' ? -1 : high << 4 | low;
    }

    private @Nullable PrefixSearch symbols() {
        Ints ids = new Ints(64);
        for (int id = 0; id < size(); id++) {
            if (types[id] == USER_DEFINED) {
                ids.add(id);
            }
        }
        return ids.size() == 0 ? null : new PrefixSearch(pieces, ids.toArray());
    }
}
