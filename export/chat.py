"""Chat template parts as ids: a checkpoint's jinja template is rendered once here, so that runtimes need no jinja."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.manifest import ChatTemplate, TokenizerSpec

TEMPLATE = "chat_template.jinja"
Encode = Callable[[str], list[int]]


def read_tokenizer(folder: Path) -> tuple[TokenizerSpec, Encode, Callable[[int], str]] | None:
    """The checkpoint's tokenizer: SentencePiece first, then `tokenizer.json`; None where it has neither."""
    if (path := folder / "tokenizer.model").is_file():
        import sentencepiece

        try:
            model: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except Exception as error:
            raise CheckpointError(f"{path}: is not a SentencePiece model ({error})".splitlines()[0]) from None
        spec = TokenizerSpec(file=path.name, kind="sentencepiece", vocab_size=int(model.vocab_size()))
        return spec, lambda text: list(model.encode(text)), lambda token: str(model.id_to_piece(token))
    if (path := folder / "tokenizer.json").is_file():
        import tokenizers

        try:
            fast: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path}: is not a tokenizer file ({error})".splitlines()[0]) from None
        size = int(fast.get_vocab_size(with_added_tokens=True))
        spec = TokenizerSpec(file=path.name, kind="tokenizers", vocab_size=size)

        def encode(text: str) -> list[int]:
            return list(fast.encode(text, add_special_tokens=False).ids)

        return spec, encode, lambda token: str(fast.id_to_token(token))
    return None


def chat_template(folder: Path, config: ModelConfig, encode: Encode, piece: Callable[[int], str]) -> ChatTemplate | None:
    """Render two turns around markers and cut the text at them; None where the checkpoint has no template."""
    path = folder / TEMPLATE
    if not path.is_file():
        return None
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def render(roles: list[str], *, prompt: bool) -> list[str]:
        messages = [{"role": role, "content": f"\x01{i}\x01"} for i, role in enumerate(roles)]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        text = environment.from_string(path.read_text(encoding="utf-8")).render(
            messages=messages, add_generation_prompt=prompt, bos_token=bos, eos_token=piece(config.eos_token_ids[0])
        )
        parts = text.split("\x01")[::2]
        if len(parts) != len(roles) + 1:
            raise CheckpointError(f"{path}: does not show every message once; a plain user and assistant template is needed")
        return parts

    bos = piece(config.bos_token_id)
    try:
        first, suffix = render(["user"], prompt=False)
        _, opened = render(["user"], prompt=True)
        between = render(["user", "assistant", "user"], prompt=True)[2]
    except (TemplateError, UnicodeDecodeError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be rendered ({str(error).splitlines()[0]})") from None
    if not opened.startswith(suffix):
        raise CheckpointError(f"{path}: the generation prompt changes the turn before it; this template cannot be split")
    start = [config.bos_token_id] if first.startswith(bos) else []
    user_prefix = first[len(bos) :] if start else first
    if not between.endswith(user_prefix):
        raise CheckpointError(f"{path}: the second user turn opens unlike the first; this template cannot be split")
    closing = encode(between[: len(between) - len(user_prefix)])
    stops = [i for i, token in enumerate(closing) if token in config.eos_token_ids]
    return ChatTemplate(
        start=tuple(start), user_prefix=tuple(encode(user_prefix)), user_suffix=tuple(encode(suffix)),
        model_prefix=tuple(encode(opened[len(suffix) :])), model_suffix=tuple(closing[stops[0] + 1 :] if stops else closing),
    )  # fmt: skip
