package org.dgemma.tokenizer;

/** Cuts normalized text into pieces, in order and without gaps. */
interface Segmenter {
    void segment(byte[] text, int size, Output out);

    /** Takes one piece: bytes from…to of the text, and the id. */
    interface Output {
        void piece(int from, int to, int id);
    }
}
