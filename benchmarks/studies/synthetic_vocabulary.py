"""A vocabulary of the released model's size that no tokenizer made: the bytes, single characters of many scripts, pairs of
punctuation, runs of spaces, and made-up words with and without a space before them.

It stands for a large vocabulary where only the number of ids and how they begin matter.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dgemma.runtime.structure.vocabulary import Vocabulary

MARKERS = 8  # ids without text come first
LETTERS = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", np.uint8)
SCRIPTS = (  # first and last code points
    (0x20, 0x7E), (0xA1, 0x24F), (0x370, 0x5EA), (0x900, 0x97F), (0x3041, 0x30FE), (0x4E00, 0x8DFF), (0xAC00, 0xB7FF),
    (0x1F300, 0x1F64F),
)  # fmt: skip
PUNCTUATION = '{}[]":,. '


def _plain() -> Iterator[bytes]:
    for byte in range(256):
        yield bytes([byte])
    for first, last in SCRIPTS:
        for point in range(first, last + 1):
            yield chr(point).encode()
    for one in PUNCTUATION:
        for other in PUNCTUATION:
            yield (one + other).encode()
    for text in ('": "', '", "', '"},', '": {', '": [', '"}]'):
        yield text.encode()
    for count in range(3, 32):
        yield b" " * count


def _words(rng: np.random.Generator) -> Iterator[bytes]:
    share = 1 / np.arange(1, len(LETTERS) + 1) ** 0.7
    while True:
        letters = rng.choice(LETTERS, (4096, 12), p=share / share.sum())
        for row, length, kind in zip(letters, rng.integers(2, 13, 4096), rng.random(4096), strict=True):
            word = row[:length].tobytes()
            yield (b" " if kind < 0.5 else b"") + (word.capitalize() if kind % 0.5 < 0.1 else word)


def synthetic(size: int, seed: int = 0) -> Vocabulary:
    """`size` ids, no two with the same text but for bytes that are characters."""
    seen: dict[bytes, None] = {}
    plain = list(_plain())
    seen.update(dict.fromkeys(plain[256:]))
    texts = [b""] * MARKERS + plain[:256] + list(seen)
    for word in _words(np.random.default_rng(seed)):
        if len(texts) >= size:
            break
        if word not in seen:
            seen[word] = None
            texts.append(word)
    texts = texts[:size]
    length = np.array([len(text) for text in texts])
    is_byte = np.arange(size) < MARKERS + 256
    rank = np.empty(size, np.int64)
    rank[np.lexsort((np.arange(size), length, is_byte))] = np.arange(size)
    return Vocabulary(first=tuple(texts), later=tuple(texts), rank=rank)
