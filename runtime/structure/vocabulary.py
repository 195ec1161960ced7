"""The bytes that each id of a tokenizer writes. V ids.

It asks the tokenizer to decode, so that only the tokenizer needs to know its rules for spaces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dgemma.core.errors import UsageError
from dgemma.core.markers import looks_special
from dgemma.runtime.engines.base import Array
from dgemma.runtime.structure.markers import BYTES
from dgemma.runtime.tokenizer import REPLACEMENT, HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer

# They write each id by itself, but perhaps the first.
_OPTIONS = "regex, json_schema, grammar and choices"
_DECODERS = frozenset({"Sequence", "ByteFallback", "ByteLevel", "Fuse", "Replace", "Strip", "Metaspace"})


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What ids write; empty for those that write nothing, or that no structured answer holds.

    Args:
        first: of the first id of an answer, V of them; some tokenizers drop a space there.
        later: of all other ids.
        rank: [V] int64; of ids with equal transitions the one with the lowest rank stands for all: pieces before single bytes,
            shorter before longer ones, then in their order.
    """

    first: tuple[bytes, ...]
    later: tuple[bytes, ...]
    rank: Array = field(repr=False)

    @property
    def is_even(self) -> bool:
        """Whether an answer's first id writes what it writes elsewhere."""
        return self.first == self.later


def read_vocabulary(tokenizer: Tokenizer, size: int, marks: Sequence[int] = ()) -> Vocabulary:
    """Of all ids below `size`, the model's; ids of `marks` have the bytes of markers, which no other has.

    Raises UsageError for a tokenizer whose ids have no bytes of their own.
    """
    if not isinstance(tokenizer, (SentencePieceTokenizer, HuggingFaceTokenizer)):
        raise UsageError(f"structured answers need a SentencePiece or Hugging Face tokenizer; leave {_OPTIONS} out")
    read = _sentencepiece(tokenizer) if isinstance(tokenizer, SentencePieceTokenizer) else _tokenizers(tokenizer)
    ids = [i for i in range(min(size, tokenizer.vocab_size)) if i not in tokenizer._markers and read.has_text(i)]
    anchor = _anchor(tokenizer, read)
    before = tokenizer.decode([anchor])
    first, later, single = [b""] * size, [b""] * size, np.zeros(size, np.bool_)
    for token, alone, behind in zip(ids, read.decode([[i] for i in ids]), read.decode([[anchor, i] for i in ids]), strict=True):
        exact = read.bytes_of(token)
        single[token] = exact is not None and len(exact) == 1
        if exact is not None and not _is_text(exact):
            first[token] = later[token] = b"" if any(one in BYTES for one in exact) else exact
        elif REPLACEMENT not in alone and behind.startswith(before):
            first[token], later[token] = alone.encode(), behind[len(before) :].encode()
    for number, token in enumerate(marks):
        first[token] = later[token] = bytes([BYTES[number]])
    length = np.array([len(text) for text in later])
    rank = np.empty(size, np.int64)
    rank[np.lexsort((np.arange(size), length, single))] = np.arange(size)
    return Vocabulary(first=tuple(first), later=tuple(later), rank=rank)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Of one tokenizer.

    Args:
        bytes_of: which bytes an id is, where the vocabulary has bytes; None for other pieces.
        has_text: whether an id is more than a marker or a gap.
        decode: texts of many lists of ids.
    """

    bytes_of: Callable[[int], bytes | None]
    has_text: Callable[[int], bool]
    decode: Callable[[list[list[int]]], list[str]]


def _sentencepiece(tokenizer: Tokenizer) -> _Reader:
    model: Any = tokenizer._model  # type: ignore[attr-defined]

    def bytes_of(token: int) -> bytes | None:
        return bytes([int(model.id_to_piece(token)[3:5], 16)]) if model.is_byte(token) else None

    def has_text(token: int) -> bool:
        hidden = model.is_control(token) or model.is_unknown(token) or model.is_unused(token)
        return not hidden and not looks_special(model.id_to_piece(token))

    return _Reader(bytes_of=bytes_of, has_text=has_text, decode=model.decode)


def _tokenizers(tokenizer: Tokenizer) -> _Reader:
    """Raises UsageError for a decoder that looks at more than one id."""
    model: Any = tokenizer._model  # type: ignore[attr-defined]
    said = json.loads(model.to_str())
    kinds = _kinds(said.get("decoder"))
    if unknown := sorted(kinds - _DECODERS):
        raise UsageError(f"structured answers do not support the tokenizer's decoder {unknown[0]!r}; leave {_OPTIONS} out")
    unknown_token = model.token_to_id(said["model"].get("unk_token") or "")
    added, table = model.get_added_tokens_decoder(), _byte_level()

    def bytes_of(token: int) -> bytes | None:
        piece = tokenizer._piece(token)
        if "ByteLevel" in kinds and token not in added:
            return bytes(table[c] for c in piece) if all(c in table for c in piece) else b""
        if "ByteFallback" in kinds and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return None

    def has_text(token: int) -> bool:
        piece = model.id_to_token(token)
        return piece is not None and token != unknown_token and not looks_special(piece)

    return _Reader(bytes_of=bytes_of, has_text=has_text, decode=partial(model.decode_batch, skip_special_tokens=False))


def _kinds(decoder: Any) -> set[str]:
    """Types of a decoder and of its parts."""
    if not isinstance(decoder, dict):
        return {str(decoder)}
    return {decoder["type"]}.union(*(_kinds(part) for part in decoder.get("decoders", ())))


def _byte_level() -> dict[str, int]:
    """Characters of byte-level vocabularies → bytes, as GPT-2 has them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _is_text(said: bytes) -> bool:
    try:
        said.decode()
    except UnicodeDecodeError:
        return False
    return True


def _anchor(tokenizer: Tokenizer, read: _Reader) -> int:
    """An id that stands before another one whose text is wanted as it is inside an answer; raises UsageError."""
    for text in ("a", "0", "e", "."):
        ids = tokenizer.encode_user(text)
        if ids and read.has_text(ids[-1]) and tokenizer.decode(ids[-1:]).strip() == text:
            return ids[-1]
    raise UsageError(f"structured answers need a tokenizer with ids for single letters; leave {_OPTIONS} out")
