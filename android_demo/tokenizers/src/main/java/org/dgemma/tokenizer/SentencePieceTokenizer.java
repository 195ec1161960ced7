package org.dgemma.tokenizer;

import java.util.SortedMap;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/**
 * SentencePiece models of all four types. It gives the ids and texts of the library (google/sentencepiece), token for
 * token: of version 0.2.3, since versions before it scored user-defined symbols of unigram models in another way.
 */
final class SentencePieceTokenizer extends MarkedTokenizer {
    private static final float UNKNOWN_PENALTY = 10;

    private final SentencePieceModel model;
    private final Segmenter segmenter;

    private SentencePieceTokenizer(SentencePieceModel model, SortedMap<Integer, String> markers) {
        super(model.size(), markers);
        this.model = model;
        this.segmenter = segmenter(model);
    }

    /** `markerIds` are the manifest's: those that are control pieces or look special become markers. */
    static SentencePieceTokenizer read(byte[] file, int[] markerIds) {
        SentencePieceModel model = new SentencePieceModel(file);
        SortedMap<Integer, String> markers = new TreeMap<>();
        for (int id : markerIds) {
            if (id >= 0 && id < model.size()) {
                String piece = model.pieces.text(id);
                if (model.type(id) == SentencePieceModel.CONTROL || looksSpecial(piece)) {
                    markers.put(id, piece);
                }
            }
        }
        for (int id = 0; id < Math.min(model.size(), 16); id++) {
            if (model.type(id) == SentencePieceModel.CONTROL) {
                markers.put(id, model.pieces.text(id));
            }
        }
        return new SentencePieceTokenizer(model, markers);
    }

    @Override
    public int[] encode(String text) {
        byte[] bytes = Utf8.encode(text);
        Bytes normalized = model.normalizer.normalize(bytes, bytes.length);
        Ints ids = new Ints(normalized.size / 2);
        boolean[] afterUnknown = {false};
        segmenter.segment(normalized.values, normalized.size, (from, to, id) -> {
            boolean isUnknown = id == model.unknown;
            if (model.type(id) == SentencePieceModel.CONTROL) {
                // The library refuses such a text too: a control piece stands for no characters.
                throw new TokenizerException("the text cannot be encoded; give valid Unicode text");
            }
            if (isUnknown && model.byteIds.length > 0) {
                for (int i = from; i < to; i++) {
                    ids.add(model.byteIds[normalized.values[i] & 0xFF]);
                }
            } else if (!isUnknown || !afterUnknown[0]) {
                ids.add(id);
            }
            afterUnknown[0] = isUnknown;
        });
        return ids.toArray();
    }

    @Override
    String decodeAll(int[] ids) {
        for (int id : ids) {
            if (id < 0 || id >= model.size()) {
                throw new TokenizerException("piece id is out of range.");
            }
        }
        Bytes out = new Bytes(ids.length * 4);
        boolean atStart = true;
        boolean tookSpace = false;
        for (int i = 0; i < ids.length; ) {
            int from = model.pieces.start(ids[i]);
            int to = model.pieces.end(ids[i]);
            int id = model.id(model.pieces.bytes(), from, to);
            if (model.type(id) == SentencePieceModel.BYTE) {
                i = decodeBytes(ids, i, out);
                continue;
            }
            i++;
            atStart &= !tookSpace && out.size == 0;
            tookSpace = false;
            if (id == model.unknown) {
                out.add(model.unknownSurface);
            } else if (model.type(id) != SentencePieceModel.CONTROL) {
                int start = atStart ? withoutMark(from, to) : from;
                tookSpace = start > from && !model.normalizer.removeExtraWhitespaces;
                unmark(start, to, out);
            }
        }
        Bytes text = model.denormalizer.charsMap == null ? out : model.denormalizer.normalize(out.values, out.size);
        return Utf8.strict(text.values, 0, text.size);
    }

    @Override
    String piece(int id) {
        return model.pieces.text(id);
    }

    @Override
    public boolean writes(int id) {
        if (id < 0 || id >= model.size() || markers.containsKey(id)) {
            return false;
        }
        int type = model.type(id);
        boolean hidden = type == SentencePieceModel.CONTROL || type == SentencePieceModel.UNKNOWN
                || type == SentencePieceModel.UNUSED;
        return !hidden && !looksSpecial(piece(id));
    }

    @Override
    public byte @Nullable [] bytes(int id) {
        return model.type(id) == SentencePieceModel.BYTE ? new byte[] {(byte) model.byteValue(id)} : null;
    }

    /** Appends the characters of byte pieces from `start` on, U+FFFD for a byte that is in none; returns the end. */
    private int decodeBytes(int[] ids, int start, Bytes out) {
        Bytes run = new Bytes(16);
        int end = start;
        while (end < ids.length && model.type(ids[end]) == SentencePieceModel.BYTE) {
            run.add(model.byteValue(ids[end++]));
        }
        for (int at = 0; at < run.size; ) {
            int length = Utf8.valid(run.values, at, run.size);
            if (length == 0) {
                out.addCodePoint(Utf8.REPLACEMENT);
            } else {
                out.add(run.values, at, at + length);
            }
            at += Math.max(length, 1);
        }
        return end;
    }

    private int withoutMark(int from, int to) {
        boolean takes = model.normalizer.addDummyPrefix || model.normalizer.removeExtraWhitespaces;
        return takes && isMark(from, to) ? from + SentencePieceNormalizer.MARK.length : from;
    }

    private void unmark(int from, int to, Bytes out) {
        byte[] bytes = model.pieces.bytes();
        for (int at = from; at < to; at++) {
            if (isMark(at, to)) {
                out.add(' ');
                at += SentencePieceNormalizer.MARK.length - 1;
            } else {
                out.add(bytes[at]);
            }
        }
    }

    private boolean isMark(int at, int to) {
        byte[] mark = SentencePieceNormalizer.MARK;
        return to - at >= mark.length && PackedStrings.equal(model.pieces.bytes(), at, mark, 0, mark.length);
    }

    private static Segmenter segmenter(SentencePieceModel model) {
        switch (model.modelType) {
            case SentencePieceModel.BPE:
                return new SentencePieceBpe(model);
            case SentencePieceModel.WORD:
                return (text, size, out) -> words(model, text, size, out);
            case SentencePieceModel.CHAR:
                return (text, size, out) -> {
                    for (int at = 0; at < size; ) {
                        int end = at + Math.abs(model.step(text, at, size));
                        out.piece(at, end, model.id(text, at, end));
                        at = end;
                    }
                };
            default:
                return unigram(model);
        }
    }

    private static void words(SentencePieceModel model, byte[] text, int size, Segmenter.Output out) {
        byte[] mark = SentencePieceNormalizer.MARK;
        int start = 0;
        for (int at = 0; at < size; at += Utf8.step(text, at, size)) {
            boolean isMark = size - at >= mark.length && PackedStrings.equal(text, at, mark, 0, mark.length);
            if (isMark && at > start) {
                out.piece(start, at, model.id(text, start, at));
                start = at;
            }
        }
        if (start < size) {
            out.piece(start, size, model.id(text, start, size));
        }
    }

    private static Segmenter unigram(SentencePieceModel model) {
        Ints ids = new Ints(model.size());
        float lowest = Float.MAX_VALUE;
        for (int id = 0; id < model.size(); id++) {
            if (model.isOrdinary(id)) {
                ids.add(id);
            }
            if (model.type(id) == SentencePieceModel.NORMAL) {
                lowest = Math.min(lowest, model.score(id));
            }
        }
        PrefixSearch search = new PrefixSearch(model.pieces, ids.toArray());
        return new Viterbi(search, model.unknown, lowest - UNKNOWN_PENALTY, true) {
            @Override
            double score(int id, int length) {
                switch (model.type(id)) {
                    case SentencePieceModel.UNUSED:
                        return Double.NaN;
                    case SentencePieceModel.USER_DEFINED:
                        return (float) (length * 0.1 - 0.1); // above every piece that the model scored
                    default:
                        return model.score(id);
                }
            }
        };
    }
}
