"""The tokenizer that transformers' GemmaTokenizer builds: it uses only a file's vocabulary, merges and added tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from dgemma.core.errors import CheckpointError
from dgemma.export.template import TOKENIZER_CONFIG, read_optional_json, special_settings

ADDED_TOKENS = "added_tokens.json"
CLASS = "GemmaTokenizer"
_DEFAULTS = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "mask")}
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # transformers' order
_PARTS = ("normalizer", "pre_tokenizer", "decoder", "added_tokens")


def from_json(path: Path, fast: Tokenizer) -> tuple[Tokenizer, tuple[str, ...]]:
    """What GemmaTokenizer makes of `fast`, read from the path, and which of its parts that changes; raises CheckpointError."""
    held = json.loads(fast.to_str())
    model = held["model"]
    if model["type"] != "BPE":
        raise CheckpointError(
            f"{path}: is not a BPE model, as {CLASS} needs; name its own tokenizer_class in {TOKENIZER_CONFIG}"
        )
    added = {token.pop("id"): AddedToken(**token) for token in [dict(t) for t in held["added_tokens"]]}
    made = _build(path.parent, model["vocab"], [tuple(m) for m in model["merges"]], in_file=added)
    made_parts = json.loads(made.to_str())
    changed = [part for part in _PARTS if made_parts[part] != held[part]]
    if any(made_parts["model"][key] != model[key] for key in model):
        changed.append("model")
    return made, tuple(changed)


def from_sentencepiece(path: Path) -> Tokenizer:
    """What GemmaTokenizer makes of a readable SentencePiece model; raises CheckpointError."""
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    pieces = [
        AddedToken(p.piece, normalized=False, special=p.type == p.CONTROL)
        for p in proto.pieces
        if p.type in (p.CONTROL, p.USER_DEFINED)
    ]
    return _build(path.parent, vocab, _merges(vocab), pieces=pieces)


def _merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, in the order of ids, which for SentencePiece is that of scores."""
    splits = ((piece[:n], piece[n:]) for piece in vocab for n in range(1, len(piece)))
    return [(left, right) for left, right in splits if left in vocab and right in vocab]


def _build(
    folder: Path,
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    *,
    in_file: dict[int, AddedToken] | None = None,
    pieces: Iterable[AddedToken] = (),
) -> Tokenizer:
    try:
        named, added, extra = _added_tokens(folder, vocab, in_file, list(pieces))
        unknown = named["unk_token"].content
        tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{folder / TOKENIZER_CONFIG}: names an invalid token ({error}); correct it") from None
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokens = {added[i].content: added[i] for i in sorted(added)}
    for token in (*named.values(), *extra):
        tokens.setdefault(token.content, token)
    for token in named.values():
        tokens[token.content].special = True
    tokenizer.add_tokens(list(tokens.values()))
    return tokenizer


def _added_tokens(
    folder: Path, vocab: dict[str, int], in_file: dict[int, AddedToken] | None, pieces: list[AddedToken]
) -> tuple[dict[str, AddedToken], dict[int, AddedToken], list[AddedToken]]:
    """Special tokens by name, added tokens by id, and further special tokens, from the places that transformers reads."""
    settings = special_settings(folder)
    further = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    if isinstance(further, dict):  # special tokens by name too
        settings, further = settings | further, None
    given = {key: _token(value) for key, value in settings.items() if key.endswith("_token") and isinstance(value, str | dict)}
    extra = [_token(token) for token in further or []]
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in settings:
        added = {int(i): AddedToken(**token) for i, token in settings["added_tokens_decoder"].items()}
    else:
        special = {given[name].content for name in _NAMED if name in given} | {token.content for token in extra}
        for text, i in read_optional_json(folder / ADDED_TOKENS).items():
            added[int(i)] = AddedToken(text, special=text in special, normalized=text not in special)
        added |= in_file or {}
    held = {token.content: token for token in added.values()}
    # A default that no file holds has no row in the model: transformers adds it, here its text stays text.
    defaults = {key: _token(text) for key, text in _DEFAULTS.items() if text in vocab or text in held or key == "unk_token"}
    given = defaults | given
    order = [*(key for key in _NAMED if key in given), *(key for key in given if key not in _NAMED)]
    return {key: held.get(given[key].content, given[key]) for key in order}, added, extra or pieces


def _token(token: str | dict[str, Any]) -> AddedToken:
    """A token as a file writes it: its text, or its text with flags."""
    flags = {"content": token} if isinstance(token, str) else token
    return AddedToken(**{key: value for key, value in flags.items() if key not in ("__type", "special")}, special=True)
