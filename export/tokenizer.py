"""A checkpoint's tokenizer as transformers reads it, and the tokenizer file for the bundle."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dgemma.core.errors import CheckpointError
from dgemma.core.manifest import TokenizerSpec
from dgemma.core.markers import looks_special
from dgemma.export import gemma
from dgemma.export.template import TOKENIZER_CONFIG, read_optional_json

JSON = "tokenizer.json"
_AS_THEY_ARE = ("TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "PythonBackend")


@dataclass(frozen=True, kw_only=True)
class CheckpointTokenizer:
    """What a bundle and splitting a template need of a tokenizer; `frozen` are the texts that always become one token."""

    spec: TokenizerSpec
    source: Path
    encode: Callable[[str], list[int]]
    piece: Callable[[int], str]
    markers: dict[str, int]
    frozen: tuple[str, ...]
    rebuilt: str | None = None
    note: str | None = None

    def save(self, folder: Path) -> None:
        """Write the bundle's file: the checkpoint's own, or the `tokenizer.json` rebuilt of it."""
        if self.rebuilt is None:
            shutil.copyfile(self.source, folder / self.spec.file)
        else:
            (folder / self.spec.file).write_text(self.rebuilt, encoding="utf-8")


def read_tokenizer(folder: Path) -> CheckpointTokenizer | None:
    """The checkpoint's tokenizer, as transformers chooses: `tokenizer.json`, then SentencePiece; None where it has neither."""
    declared = _declared(folder)
    if (path := folder / "tokenizer.json").is_file():
        found = _tokenizers(path)
    elif (path := folder / "tokenizer.model").is_file():
        found = _sentencepiece(path)
        if _class_of(folder) == gemma.CLASS and not _holds(found, declared):
            note = f"{path.name} and its added tokens become a {JSON}, by the rules of transformers' GemmaTokenizer"
            found = _of_library(path, gemma.from_sentencepiece(path), rebuilt=True, note=note)
    else:
        return None
    for token, name in declared.items():
        if not _holds(found, {token: name}):
            raise CheckpointError(
                f"{path}: lacks the added token {name!r} (id {token}); save it again with transformers' save_pretrained"
            )
    return found


def _declared(folder: Path) -> dict[str, str]:
    """Id → text of the added tokens that files beside the tokenizer name."""
    decoder = read_optional_json(folder / TOKENIZER_CONFIG).get("added_tokens_decoder")
    if isinstance(decoder, dict) and decoder:
        return {i: str(token.get("content")) if isinstance(token, dict) else str(token) for i, token in decoder.items()}
    return {str(i): text for text, i in read_optional_json(folder / gemma.ADDED_TOKENS).items()}


def _holds(found: CheckpointTokenizer, declared: dict[str, str]) -> bool:
    size = found.spec.vocab_size
    return all(i.isdecimal() and int(i) < size and found.piece(int(i)) == text for i, text in declared.items())


def _tokenizers(path: Path) -> CheckpointTokenizer:
    try:
        fast = Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(f"{path}: is not a tokenizer file ({error})".splitlines()[0]) from None
    name = _class_of(path.parent)
    if name == gemma.CLASS:
        made, changed = gemma.from_json(path, fast)
        if changed:
            note = f"{path.name}: {', '.join(changed)} replaced, as transformers' {name} does"
            return _of_library(path, made, rebuilt=True, note=note)
    elif name not in _AS_THEY_ARE:
        note = f"{path.name} is read as it is; for tokenizer_class {name!r} transformers may put parts of its own in"
        return _of_library(path, fast, note=note)
    return _of_library(path, fast)


def _class_of(folder: Path) -> str:
    """The class that transformers reads the tokenizer with; GemmaTokenizer where the folder names none."""
    names = (read_optional_json(folder / file).get("tokenizer_class") for file in (TOKENIZER_CONFIG, "config.json"))
    name = str(next(filter(None, names), gemma.CLASS))
    return gemma.CLASS if name.removesuffix("Fast") == gemma.CLASS else name


def _of_library(path: Path, fast: Tokenizer, *, rebuilt: bool = False, note: str | None = None) -> CheckpointTokenizer:
    fast.no_padding()
    fast.no_truncation()
    added = fast.get_added_tokens_decoder()

    def encode(text: str) -> list[int]:
        try:
            return list(fast.encode(text, add_special_tokens=False).ids)
        except Exception as error:
            raise CheckpointError(f"{path}: cannot encode {text[:40]!r} ({error})".splitlines()[0]) from None

    return CheckpointTokenizer(
        spec=TokenizerSpec(file=JSON, kind="tokenizers", vocab_size=int(fast.get_vocab_size(with_added_tokens=True))),
        source=path,
        encode=encode,
        piece=lambda token: str(fast.id_to_token(token)),
        markers={t.content: i for i, t in added.items() if t.special or looks_special(t.content)},
        frozen=tuple(t.content for t in added.values() if not (t.lstrip or t.rstrip or t.single_word or t.normalized)),
        rebuilt=fast.to_str() if rebuilt else None,
        note=note,
    )


def _sentencepiece(path: Path) -> CheckpointTokenizer:
    import sentencepiece

    try:
        model: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except Exception as error:
        raise CheckpointError(f"{path}: is not a SentencePiece model ({error})".splitlines()[0]) from None
    size = int(model.vocab_size())
    pieces = {str(model.id_to_piece(i)): i for i in range(size)}
    markers = {p: i for p, i in pieces.items() if model.is_control(i) or (looks_special(p) and not model.is_unknown(i))}
    pattern = either(markers)

    def encode(text: str) -> list[int]:
        parts = pattern.split(text) if pattern else [text]
        return [i for part in parts for i in ([markers[part]] if part in markers else model.encode(part))]

    newline = [p for p in pieces if p.strip("\n") == ""]  # a piece only where the trainer was told of it: text is split there
    return CheckpointTokenizer(
        spec=TokenizerSpec(file=path.name, kind="sentencepiece", vocab_size=size),
        source=path,
        encode=encode,
        piece=lambda token: str(model.id_to_piece(token)),
        markers=markers,
        frozen=(*markers, *newline),
    )


def either(texts: dict[str, int]) -> re.Pattern[str] | None:
    """Any of the texts, the longest first; it keeps them when it splits."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(texts, key=len, reverse=True)))})") if texts else None
