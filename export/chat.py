"""Chat template parts as ids: a checkpoint's jinja template is rendered once here, so that runtimes need no jinja."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.manifest import TRIMS, ChatTemplate, TokenizerSpec
from dgemma.export.template import TOKENIZER_CONFIG, compile_template, read_json, read_template

_MARK = "90817263540"  # digits: no filter changes them
# Each shows some change of the text: of white space at an end, of case, of line ends, of escapes, of a cut.
_WHITE = "".join(chr(c) for c in range(0x3001) if chr(c).isspace())
_PROBES = (
    f"{_WHITE}x{_WHITE}", "hello wOrld", "HELLO", "<b>&'\"\\", "a\r\nb\n\n\nc\t d  e", "</think>x", "{{ x }}", "ß ŉ é e\u0301",
    "\u200bx\u200b", "x\n", "\nx", " x", "x ", " \n", "a" * 3000,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CheckpointTokenizer:
    """What splitting a template needs of a tokenizer; `frozen` are the texts that always become one token."""

    spec: TokenizerSpec
    encode: Callable[[str], list[int]]
    piece: Callable[[int], str]
    markers: dict[str, int]
    frozen: tuple[str, ...]


def read_tokenizer(folder: Path) -> CheckpointTokenizer | None:
    """The checkpoint's tokenizer, as transformers chooses: `tokenizer.json`, then SentencePiece; None where it has neither."""
    if (path := folder / "tokenizer.json").is_file():
        found = _tokenizers(path)
    elif (path := folder / "tokenizer.model").is_file():
        found = _sentencepiece(path)
    else:
        return None
    decoder = read_json(folder / TOKENIZER_CONFIG).get("added_tokens_decoder")
    added = decoder if isinstance(decoder, dict) and decoder else None
    if added is not None:
        names = {str(t.get("content")) if isinstance(t, dict) else str(t): str(i) for i, t in added.items()}
    else:
        names = {name: str(i) for name, i in read_json(folder / "added_tokens.json").items()}
    for name, token in names.items():
        if not token.isdigit() or int(token) >= found.spec.vocab_size or found.piece(int(token)) != name:
            raise CheckpointError(
                f"{path}: lacks the added token {name!r} (id {token}); save it again with transformers' save_pretrained"
            )
    return found


def _tokenizers(path: Path) -> CheckpointTokenizer:
    import tokenizers

    try:
        fast: Any = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(f"{path}: is not a tokenizer file ({error})".splitlines()[0]) from None
    fast.no_padding()
    fast.no_truncation()
    added = fast.get_added_tokens_decoder()
    return CheckpointTokenizer(
        spec=TokenizerSpec(file=path.name, kind="tokenizers", vocab_size=int(fast.get_vocab_size(with_added_tokens=True))),
        encode=lambda text: list(fast.encode(text, add_special_tokens=False).ids),
        piece=lambda token: str(fast.id_to_token(token)),
        markers={t.content: i for i, t in added.items() if t.special or _looks_special(t.content)},
        frozen=tuple(t.content for t in added.values() if not (t.lstrip or t.rstrip or t.single_word or t.normalized)),
    )


def _sentencepiece(path: Path) -> CheckpointTokenizer:
    import sentencepiece

    try:
        model: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except Exception as error:
        raise CheckpointError(f"{path}: is not a SentencePiece model ({error})".splitlines()[0]) from None
    size = int(model.vocab_size())
    pieces = {str(model.id_to_piece(i)): i for i in range(size)}
    markers = {p: i for p, i in pieces.items() if model.is_control(i) or (_looks_special(p) and not model.is_unknown(i))}
    pattern = _either(markers)

    def encode(text: str) -> list[int]:
        parts = pattern.split(text) if pattern else [text]
        return [i for part in parts for i in ([markers[part]] if part in markers else model.encode(part))]

    newline = [p for p in pieces if p.strip("\n") == ""]  # a piece only where the trainer was told of it: text is split there
    return CheckpointTokenizer(
        spec=TokenizerSpec(file=path.name, kind="sentencepiece", vocab_size=size),
        encode=encode, piece=lambda token: str(model.id_to_piece(token)), markers=markers, frozen=(*markers, *newline),
    )  # fmt: skip


def chat_template(folder: Path, config: ModelConfig, tokenizer: CheckpointTokenizer) -> ChatTemplate | None:
    """Render two turns around sentinels and cut the text at them; None where the checkpoint has no template."""
    found = read_template(folder)
    if found is None:
        return None
    path, text = found
    from jinja2 import TemplateError

    special = _special_tokens(folder, config, tokenizer)
    try:
        render = compile_template(path, text)

        def show(contents: list[str], *, prompt: bool) -> str:
            roles = ("user", "assistant", "user")
            messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
            return render(messages=messages, add_generation_prompt=prompt, tools=None, documents=None, **special)

        def cut(count: int, *, prompt: bool) -> list[str]:
            parts = show([f"{_MARK}{i}{_MARK}" for i in range(count)], prompt=prompt).split(_MARK)[::2]
            if len(parts) != count + 1:
                raise CheckpointError(f"{path}: does not show every message once; only a plain chat template can be used")
            return parts

        first, suffix = cut(1, prompt=False)
        _, opened = cut(1, prompt=True)
        between, last = cut(3, prompt=True)[2:]
        if not opened.startswith(suffix) or last != opened:
            raise CheckpointError(f"{path}: the generation prompt changes the turn before it; this template cannot be split")
        trim = _trim(path, lambda text: show([text], prompt=True), first, opened)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be rendered ({(str(error).splitlines() or [''])[0]})") from None
    return _as_ids(path, config, tokenizer, (first, between, suffix, opened), trim)


def _as_ids(
    path: Path, config: ModelConfig, tokenizer: CheckpointTokenizer, texts: tuple[str, str, str, str], trim: str
) -> ChatTemplate:
    first, between, suffix, opened = texts
    pattern = _either(tokenizer.markers)

    def opening(text: str) -> tuple[list[int], str]:
        """Ids up to the last place where tokens cannot join, and the text after it."""
        end = [m.end() for m in pattern.finditer(text)][-1:] if pattern else []
        at = len(text) if _is_closed(text, tokenizer.frozen) else (end or [0])[0]
        return tokenizer.encode(text[:at]), text[at:]

    ids, lead = opening(first)
    later, later_lead = opening(between)
    stop = next((i + 1 for i, token in enumerate(later) if token in config.eos_token_ids), 0)
    if lead != later_lead:
        raise CheckpointError(f"{path}: the second user turn opens unlike the first; this template cannot be split")
    most = min(len(ids) - (ids[:1] == [config.bos_token_id]), len(later) - stop)
    same = next((n for n in range(most) if ids[-n - 1] != later[-n - 1]), max(most, 0))
    found = pattern.search(opened) if pattern else None
    at = found.start() if found else len(opened)
    turn = max(at, len(suffix))
    end_of_user, start_of_model = tokenizer.encode(opened[at:turn]), tokenizer.encode(opened[turn:])
    whole = tokenizer.encode(opened[at:])
    if [*end_of_user, *start_of_model] != whole:
        end_of_user, start_of_model = whole, []
    return ChatTemplate(
        start=tuple(ids[: len(ids) - same]), user_prefix=tuple(ids[len(ids) - same :]), user_suffix=tuple(end_of_user),
        model_prefix=tuple(start_of_model), model_suffix=tuple(later[stop : len(later) - same]),
        user_lead=lead, user_tail=opened[:at], trim=trim,
    )  # fmt: skip


def _trim(path: Path, show: Callable[[str], str], before: str, after: str) -> str:
    """Which end of the user's text the template trims; raises CheckpointError where it changes the text otherwise."""
    left = dict(TRIMS)
    for probe in _PROBES:
        shown = show(probe)
        left = {name: trim for name, trim in left.items() if before + trim(probe) + after == shown}
        if not left:
            text = shown.removeprefix(before).removesuffix(after)[:40]
            raise CheckpointError(
                f"{path}: changes the user's text in a way that a bundle cannot carry (it gives {text!r} for {probe[:40]!r})"
            )
    return next(iter(left))


def _special_tokens(folder: Path, config: ModelConfig, tokenizer: CheckpointTokenizer) -> dict[str, str]:
    """The names of special tokens that a template can use, with their texts."""
    given = read_json(folder / "special_tokens_map.json") | read_json(folder / TOKENIZER_CONFIG)
    ids = {"bos_token": config.bos_token_id, "eos_token": config.eos_token_ids[0], "pad_token": config.pad_token_id}
    texts = {name: tokenizer.piece(i) for name, i in ids.items() if i < tokenizer.spec.vocab_size}
    for name in (*ids, "unk_token", "mask_token"):
        value = given.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            texts[name] = text
    return texts


def _is_closed(text: str, frozen: tuple[str, ...]) -> bool:
    """Whether the text ends with a token that nothing after it can change: no token of its own begins inside and goes on."""
    if not any(text.endswith(token) for token in frozen):
        return False
    return not any(text.endswith(token[:n]) for token in frozen for n in range(1, len(token)))


def _either(texts: dict[str, int]) -> re.Pattern[str] | None:
    """Any of the texts, the longest first; it keeps them when it splits."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(texts, key=len, reverse=True)))})") if texts else None


def _looks_special(piece: str) -> bool:
    return len(piece) > 2 and piece[0] == "<" and piece[-1] == ">" and not piece.startswith("<0x")
