"""Banned texts as ids: only tokens that read exactly like the text, with or without a space before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dgemma.core.errors import Param, TokenizerError, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.sampler_options import BANNED
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.tokenizer import Tokenizer


def with_bans(options: GenerateOptions, tokenizer: Tokenizer | None, bundle: Bundle) -> GenerateOptions:
    """The options with what they ban as a bias on logits. Raises UsageError, TokenizerError."""
    if not options.banned:
        return options
    ids = [i for item in options.banned for i in ([item] if isinstance(item, int) else _ids(item, tokenizer, bundle.path))]
    if max(ids) >= (vocab := bundle.manifest.model.vocab_size):
        raise UsageError(Param("ban"), f": id {str(max(ids))[:40]} is outside the vocabulary of {vocab}")
    bias = {**dict(options.sampler.bias), **dict.fromkeys(ids, BANNED)}
    return replace(options, ban=(), sampler=replace(options.sampler, logit_bias=bias))


def _ids(text: str, tokenizer: Tokenizer | None, path: Path) -> list[int]:
    if tokenizer is None:
        why = f" {text[:40]!r} cannot be read, for {path} has no tokenizer; give ids"
        raise TokenizerError(Param("ban"), why)
    spelled = [tokenizer.encode_user(before + text) for before in ("", " ")]
    found = {ids[0] for ids in spelled if len(ids) == 1 and tokenizer.decode(ids).strip() == text.strip()}
    if not found:
        several = f" {text[:40]!r} takes {len(spelled[0])} tokens, which other texts need as well; ban a text of one token"
        raise UsageError(Param("ban"), several)
    return sorted(found)
