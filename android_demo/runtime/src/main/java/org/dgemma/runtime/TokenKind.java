package org.dgemma.runtime;

/** What a token of an answer belongs to; markers count to what they begin or end. */
public enum TokenKind { TEXT, THOUGHT, CALL }
