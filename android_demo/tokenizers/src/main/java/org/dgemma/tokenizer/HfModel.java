package org.dgemma.tokenizer;

/** The model of a `tokenizer.json`: cuts a part of the text that is ready for it. */
interface HfModel {
    HfVocabulary vocabulary();

    /** Entries of the vocabulary as the file has them. */
    int size();

    /** Adds the ids of UTF-8 text that is not empty. */
    void encode(byte[] text, Ints ids);
}
