package org.dgemma.tokenizer;

import java.io.DataInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;

/** Reads tokenizer files. */
public final class Tokenizers {
    private static final long MOST_BYTES = 256L << 20;

    private Tokenizers() {}

    /**
     * Reads a tokenizer.
     *
     * @param kind as the manifest names it: sentencepiece (a `.model`) or tokenizers (a Hugging Face `tokenizer.json`)
     * @param markerIds ids of begin, end, padding and of the chat template; words among them stay words
     * @throws TokenizerException if the kind is unknown, or the file cannot be read or uses what is not supported here
     */
    public static Tokenizer load(File file, String kind, int[] markerIds) {
        if (!kind.equals("sentencepiece") && !kind.equals("tokenizers")) {
            throw new TokenizerException(
                    "tokenizer kind '" + kind + "' is unknown; choose sentencepiece or tokenizers");
        }
        try {
            byte[] bytes = read(file);
            return kind.equals("sentencepiece")
                    ? SentencePieceTokenizer.read(bytes, markerIds)
                    : HuggingFaceTokenizer.read(bytes, markerIds);
        } catch (UnsupportedException error) {
            throw new TokenizerException(file + ": " + error.getMessage(), error);
        } catch (TokenizerException | IOException error) {
            throw new TokenizerException(
                    file + ": cannot be read (" + error.getMessage() + "); export the bundle again", error);
        }
    }

    /**
     * As {@link #load(File, String, int[])}, and checks the number of pieces.
     *
     * @throws TokenizerException as there, and if the file does not hold `vocabSize` pieces
     */
    public static Tokenizer load(File file, String kind, int[] markerIds, int vocabSize) {
        Tokenizer tokenizer = load(file, kind, markerIds);
        int size = tokenizer.vocabSize();
        if (size != vocabSize) {
            throw new TokenizerException(
                    file + ": holds " + size + " pieces, not " + vocabSize + "; export the bundle again");
        }
        return tokenizer;
    }

    private static byte[] read(File file) throws IOException {
        if (file.length() > MOST_BYTES) {
            throw new TokenizerException("it has more than " + MOST_BYTES + " bytes");
        }
        byte[] bytes = new byte[(int) file.length()];
        try (DataInputStream in = new DataInputStream(new FileInputStream(file))) {
            in.readFully(bytes);
        }
        return bytes;
    }
}
