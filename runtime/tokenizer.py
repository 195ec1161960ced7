"""Text ↔ ids for SentencePiece `.model` and Hugging Face `tokenizer.json`, and the chat template around user text.

It adds no ids of its own: begin, end and turn markers come from the manifest. User text never becomes one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from dgemma.core.errors import Param, TokenizerError, UsageError
from dgemma.core.manifest import ChatTemplate, Manifest
from dgemma.core.markers import looks_special
from dgemma.core.roles import TRIMS
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.signals import raised_in_handler

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
NO_TEMPLATE = ("the bundle has no chat template; use ", Param("raw"), " text, or ids as the prompt")
NO_TOKENIZER = ("this bundle has no tokenizer; give the prompt as ids",)
_NO_CHARACTER = "\U0010fffe"  # in no vocabulary


class Tokenizer(ABC):
    """`encode` and `decode`, and `encode_user`, which cannot produce marker ids."""

    def __init__(self, vocab_size: int, markers: Iterable[int]) -> None:
        self.vocab_size = vocab_size
        self._markers = {i: self._piece(i) for i in sorted(set(markers)) if i < vocab_size}

    @abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def _decode(self, ids: list[int]) -> str: ...

    @abstractmethod
    def _piece(self, token: int) -> str: ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with nothing added; marker strings become markers. Raises TokenizerError."""
        try:
            return self._encode(text)
        except Exception as error:  # what the libraries say of it names C++ types
            if raised_in_handler(error):
                raise
            raise TokenizerError("the text cannot be encoded; give valid Unicode text") from None

    def encode_user(self, text: str, *, before: int | None = None, after: int | None = None) -> list[int]:
        """Ids of text that somebody typed: markers in it are encoded as the plain characters that they are.

        Args:
            before: id of the marker that the text follows, whose neighbour it is encoded as.
            after: the same of the marker that follows the text.
        """
        if before is not None or after is not None:
            ids = self._encode_between(text, *("" if i is None else self._markers.get(i, "") for i in (before, after)))
            if ids is not None:
                return ids
        parts = [text]
        for marker in self._markers.values():
            if len(marker) > 1:
                parts = [piece for part in parts for piece in _cut(part, marker)]
        ids = [i for part in parts for i in self.encode(part)]
        if not self._markers.keys() & ids:
            return ids
        ids = [i for character in text for i in self.encode(character)]  # normalization made one from other characters
        return [i for i in ids if i not in self._markers]

    def _encode_between(self, text: str, before: str, after: str) -> list[int] | None:
        """Ids of the text where its neighbours matter to the format; None where they do not, or where it holds a marker."""
        return None

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids without markers, and without those past the vocabulary, which models are padded with; incomplete
        UTF-8 shows as U+FFFD. Raises TokenizerError."""
        try:
            return self._decode([int(i) for i in ids if int(i) not in self._markers and int(i) < self.vocab_size])
        except Exception as error:
            if raised_in_handler(error):
                raise
            raise TokenizerError(f"ids cannot be decoded ({_line(error)}); they must be below {self.vocab_size}") from None

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One string per id for display, empty for markers, U+FFFD past the vocabulary; joined they are nearly `decode`."""
        return ["" if int(i) in self._markers else self._shown(int(i)) for i in ids]

    def _shown(self, token: int) -> str:
        piece = self._piece(token) if 0 <= token < self.vocab_size else REPLACEMENT
        return REPLACEMENT if piece.startswith("<0x") and piece.endswith(">") else piece.replace("▁", " ")


class SentencePieceTokenizer(Tokenizer):
    def __init__(self, path: str, markers: Iterable[int]) -> None:
        import sentencepiece

        self._model: Any = sentencepiece.SentencePieceProcessor(model_file=path)
        size = int(self._model.vocab_size())
        held = [i for i in sorted(set(markers)) if i < size]
        marks = [i for i in held if self._model.is_control(i) or looks_special(self._model.id_to_piece(i))]
        controls = [i for i in range(min(size, 16)) if self._model.is_control(i)]
        super().__init__(size, [*marks, *controls])

    def _encode(self, text: str) -> list[int]:
        return list(self._model.encode(text))

    def _decode(self, ids: list[int]) -> str:
        return str(self._model.decode(ids))

    def _piece(self, token: int) -> str:
        return str(self._model.id_to_piece(token))


class HuggingFaceTokenizer(Tokenizer):
    def __init__(self, path: str, markers: Iterable[int]) -> None:
        import tokenizers

        self._model: Any = tokenizers.Tokenizer.from_file(path)
        self._model.no_padding()
        self._model.no_truncation()
        special = {i for i, token in self._model.get_added_tokens_decoder().items() if token.special}
        size = int(self._model.get_vocab_size(with_added_tokens=True))
        marks = {i for i in markers if i < size and (i in special or looks_special(self._piece(i)))}
        super().__init__(size, special | marks)
        self._unknown = self._markers.keys() & self.encode(_NO_CHARACTER)  # what stands for unknown characters forges nothing

    def _encode(self, text: str) -> list[int]:
        return list(self._model.encode(text, add_special_tokens=False).ids)

    def _encode_between(self, text: str, before: str, after: str) -> list[int] | None:
        ids = self.encode(before + text + after)
        start, end = len(before) > 0, len(ids) - (len(after) > 0)
        around = [self._markers.get(i) for i in (*ids[:start], *ids[end:])]
        forged = (self._markers.keys() - self._unknown) & {*ids[start:end], *self.encode(text)}
        return None if forged or around != [marker for marker in (before, after) if marker] else ids[start:end]

    def _decode(self, ids: list[int]) -> str:
        return str(self._model.decode(ids, skip_special_tokens=False))

    def _piece(self, token: int) -> str:
        piece = self._model.id_to_token(token)  # None where the vocabulary has a gap
        return REPLACEMENT if piece is None else str(piece)

    def _shown(self, token: int) -> str:
        return super()._shown(token).replace("Ġ", " ").replace("Ċ", "\n")  # byte-level vocabularies


def load_tokenizer(bundle: Bundle) -> Tokenizer | None:
    """The bundle's tokenizer, None where it has none; raises TokenizerError."""
    manifest = bundle.manifest
    if manifest.tokenizer is None:
        return None
    kinds: dict[str, Any] = {"sentencepiece": SentencePieceTokenizer, "tokenizers": HuggingFaceTokenizer}
    if manifest.tokenizer.kind not in kinds:
        raise TokenizerError(f"tokenizer kind {manifest.tokenizer.kind!r} is unknown; choose {' or '.join(kinds)}")
    path = bundle.file(manifest.tokenizer.file)
    try:
        tokenizer: Tokenizer = kinds[manifest.tokenizer.kind](str(path), marker_ids(manifest))
    except Exception as error:
        if raised_in_handler(error):
            raise
        raise TokenizerError(f"{path}: cannot be read ({_line(error)}); export the bundle again") from None
    if tokenizer.vocab_size != manifest.tokenizer.vocab_size:
        raise TokenizerError(
            f"{path}: holds {tokenizer.vocab_size} pieces, not {manifest.tokenizer.vocab_size}; export the bundle again"
        )
    return tokenizer


def chat_ids(manifest: Manifest, tokenizer: Tokenizer, text: str, before: Sequence[int]) -> list[int]:
    """Ids that a user's turn appends to the prefix `before` (empty, or ending with an answer)."""
    if manifest.chat is None:
        raise UsageError(*NO_TEMPLATE)
    chat = manifest.chat
    ids: list[int] = [*chat.start]
    if before:
        ids = [] if before[-1] in manifest.model.eos_token_ids else end_of_turn(manifest, chat)
        ids += chat.model_suffix
    ids += chat.user_prefix
    following = [*chat.user_suffix, *chat.model_prefix]
    content = chat.user_lead + TRIMS[chat.trim](text) + chat.user_tail
    between = {"before": ids[-1] if ids else before[-1] if before else None, "after": following[0] if following else None}
    return [*ids, *tokenizer.encode_user(content, **between), *following]


def end_of_turn(manifest: Manifest, chat: ChatTemplate) -> list[int]:
    """The stop token that ends a user's turn ends an answer as well; none where the model has none."""
    stops = manifest.model.eos_token_ids
    return [next((i for i in chat.user_suffix if i in stops), stops[0])] if stops else []


def marker_ids(manifest: Manifest) -> set[int]:
    model, chat = manifest.model, manifest.chat
    ids = {model.pad_token_id, model.bos_token_id, *model.eos_token_ids}
    if chat is not None:
        ids.update(chat.start, chat.user_prefix, chat.user_suffix, chat.model_prefix, chat.model_suffix)
        ids |= chat.roles.marker_ids() if chat.roles else set()
    return ids


def _cut(text: str, marker: str) -> list[str]:
    """Split inside every occurrence of the marker, after its first character: "<" + "end_of_turn>"."""
    first, *rest = text.split(marker)
    parts = [first]
    for piece in rest:
        parts[-1] += marker[0]
        parts.append(marker[1:] + piece)
    return parts


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
