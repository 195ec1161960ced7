"""Chat template parts as ids: a checkpoint's jinja template is rendered once here, so that runtimes need no jinja."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.manifest import ChatTemplate
from dgemma.core.roles import Roles
from dgemma.export import probes
from dgemma.export.roles import Finder
from dgemma.export.template import compile_template, other_template, read_template, special_settings
from dgemma.export.tokenizer import CheckpointTokenizer, either


@dataclass(frozen=True, kw_only=True)
class _Split:
    """A template's text before, between and after contents: of the first user's turn, of an answer and the next, of a turn
    without and with the opening of an answer."""

    path: Path
    first: str
    between: str
    suffix: str
    opened: str
    trim: str
    roles: Roles | None
    notes: tuple[str, ...]


def read_chat(folder: Path, config: ModelConfig, tokenizer: CheckpointTokenizer) -> tuple[ChatTemplate | None, tuple[str, ...]]:
    """Turns rendered around sentinels and the text cut at them, None where the checkpoint has no template; and what of the
    folder's text a bundle lacks or reads otherwise, one line each. Raises CheckpointError."""
    split = _split(folder, config, tokenizer)
    return None if split is None else _as_ids(config, tokenizer, split), _notes(folder, config, tokenizer, split)


def _notes(folder: Path, config: ModelConfig, tokenizer: CheckpointTokenizer, split: _Split | None) -> tuple[str, ...]:
    found = [tokenizer.note] if tokenizer.note else []
    size = tokenizer.spec.vocab_size
    if size < config.vocab_size:
        found.append(f"{tokenizer.source.name}: ids {size} to {config.vocab_size - 1} of the model have no text")
    if split is None:
        found.append("no chat template: prompts need --raw, and `dgemma chat` is not available")
    elif config.eos_token_ids and not set(tokenizer.encode(split.between)) & set(config.eos_token_ids):
        found.append(f"{split.path.name}: no stop token ends an answer, so answers may run to their full length")
    found += split.notes if split else ()
    if (other := other_template(folder)) and split:
        found.append(f"{other.name}: its chat template, which transformers' processors take, is ignored for {split.path.name}")
    return tuple(found)


def _split(folder: Path, config: ModelConfig, tokenizer: CheckpointTokenizer) -> _Split | None:
    found = read_template(folder)
    if found is None:
        return None
    path, text = found
    from jinja2 import TemplateError

    special = _special_tokens(folder, config, tokenizer)
    marks = [probes.mark(i) for i in range(3)]
    try:
        render = compile_template(path, text)

        def show_messages(
            messages: Sequence[Mapping[str, Any]],
            *,
            prompt: bool,
            think: bool = False,
            tools: Sequence[Mapping[str, Any]] | None = None,
        ) -> str:
            switch = {"enable_thinking": True} if think else {}  # off is what a template does without being told
            return render(messages=messages, add_generation_prompt=prompt, tools=tools, documents=None, **switch, **special)

        def show(contents: list[str], *, prompt: bool) -> str:
            roles = ("user", "assistant", "user")
            messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
            return show_messages(messages, prompt=prompt)

        def cut(count: int, *, prompt: bool) -> list[str]:
            parts = show(marks[:count], prompt=prompt).split(probes.MARK)[::2]
            if len(parts) != count + 1:
                raise CheckpointError(f"{path}: does not show every message once; only a plain chat template can be used")
            return parts

        first, suffix = cut(1, prompt=False)
        _, opened = cut(1, prompt=True)
        before, answer, between, last = cut(3, prompt=True)
        if not opened.startswith(suffix) or last != opened:
            raise CheckpointError(f"{path}: the generation prompt changes the turn before it; such a template is not supported")
        trim = probes.trim(
            path,
            (lambda text: show([text], prompt=True), first, opened),
            (lambda text: show([*marks[:2], text], prompt=True), before + marks[0] + answer + marks[1] + between, opened),
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be rendered ({(str(error).splitlines() or [''])[0]})") from None
    roles, notes = Finder(path=path, template=text, show=show_messages, tokenizer=tokenizer).roles()
    return _Split(path=path, first=first, between=between, suffix=suffix, opened=opened, trim=trim, roles=roles, notes=notes)


def _as_ids(config: ModelConfig, tokenizer: CheckpointTokenizer, split: _Split) -> ChatTemplate:
    opened = split.opened
    pattern = either(tokenizer.markers)

    def opening(text: str) -> tuple[list[int], str]:
        """Ids up to the last place where tokens cannot join, and the text after it."""
        end = [m.end() for m in pattern.finditer(text)][-1:] if pattern else []
        at = len(text) if _is_closed(text, tokenizer.frozen) else (end or [0])[0]
        return tokenizer.encode(text[:at]), text[at:]

    ids, lead = opening(split.first)
    later, later_lead = opening(split.between)
    stop = next((i + 1 for i, token in enumerate(later) if token in config.eos_token_ids), 0)
    if lead != later_lead:
        raise CheckpointError(
            f"{split.path}: the second user turn does not open like the first; such a template is not supported"
        )
    most = min(len(ids) - (ids[:1] == [config.bos_token_id]), len(later) - stop)
    same = next((n for n in range(most) if ids[-n - 1] != later[-n - 1]), max(most, 0))
    found = pattern.search(opened) if pattern else None
    at = found.start() if found else len(opened)
    turn = max(at, len(split.suffix))
    end_of_user, start_of_model = tokenizer.encode(opened[at:turn]), tokenizer.encode(opened[turn:])
    whole = tokenizer.encode(opened[at:])
    if [*end_of_user, *start_of_model] != whole:
        end_of_user, start_of_model = whole, []
    return ChatTemplate(
        start=tuple(ids[: len(ids) - same]),
        user_prefix=tuple(ids[len(ids) - same :]),
        user_suffix=tuple(end_of_user),
        model_prefix=tuple(start_of_model),
        model_suffix=tuple(later[stop : len(later) - same]),
        user_lead=lead,
        user_tail=opened[:at],
        trim=split.trim,
        roles=split.roles,
    )


def _special_tokens(folder: Path, config: ModelConfig, tokenizer: CheckpointTokenizer) -> dict[str, str]:
    """The names of special tokens that a template can use, with their texts."""
    given = special_settings(folder)
    ids = {"bos_token": config.bos_token_id, "pad_token": config.pad_token_id}
    if config.eos_token_ids:
        ids["eos_token"] = config.eos_token_ids[0]
    texts = {name: tokenizer.piece(i) for name, i in ids.items() if i < tokenizer.spec.vocab_size}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token"):
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
