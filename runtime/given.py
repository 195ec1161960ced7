"""What is known of a canvas before its first step: a template, whose text is fixed and whose holes are denoised, or a draft,
part of which is replaced by noise. N canvas.

It knows ids and positions, and nothing of how a canvas is denoised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgemma.core.errors import Param, UsageError
from dgemma.core.manifest import Manifest
from dgemma.core.noise import U32, uniform_from_word
from dgemma.core.template import read_template
from dgemma.runtime.engines.base import Array
from dgemma.runtime.tokenizer import Tokenizer, end_of_turn


@dataclass(frozen=True, kw_only=True)
class Given:
    """One canvas.

    Args:
        ids: [N] int64; noise takes the place of those that are neither pinned nor drafted.
        pinned: [N] bool; positions whose ids stay.
        drafted: [N] bool; positions that begin as their ids, but for a share of `strength`, which begins as noise.
        strength: also the share of the steps that run, the last ones.
        holes: first position and end of each hole of a template.
        length: tokens of a template, which is the whole answer; None for a draft.
    """

    ids: Array
    pinned: Array
    drafted: Array
    strength: float = 1.0
    holes: Sequence[tuple[int, int]] = ()
    length: int | None = None

    def begin(self, noise: Array, words: U32) -> Array:
        """The first step's canvas [1, N], of the initial canvas [1, N] and words [N] that say which of a draft's ids stay."""
        stays = self.pinned | (self.drafted & (uniform_from_word(words) >= self.strength))
        return np.where(stays[None], self.ids[None], noise)

    def first_step(self, steps: int) -> int:
        """How many of the steps are left out."""
        return steps - max(1, math.ceil(self.strength * steps))

    def held(self, rows: Array, argmax: Array, entropy: Array, accepted: Array, canvas: Array) -> tuple[Array, ...]:
        """What a step gave for its rows [A], with pinned ones as they stay: certain and accepted."""
        pinned = self.pinned[rows]
        ids = self.ids[rows]
        return (
            np.where(pinned, ids, argmax),
            np.where(pinned, np.float32(0), entropy),
            accepted | pinned,
            np.where(pinned, ids, canvas),
        )


def from_template(manifest: Manifest, tokenizer: Tokenizer, text: str) -> Given:
    """The canvas of a template: its pieces, its holes, the stop token, and padding behind it.

    Raises UsageError.
    """
    ids, pinned, holes = list[int](), list[bool](), list[tuple[int, int]]()
    for piece in read_template(text):
        new = [0] * piece if isinstance(piece, int) else _exact(tokenizer, piece, bool(ids))
        if isinstance(piece, int):
            holes.append((len(ids), len(ids) + piece))
        ids += new
        pinned += [not isinstance(piece, int)] * len(new)
    length, n = len(ids), manifest.canvas_length
    if length > n:
        raise UsageError(
            Param("template"), f" takes {length} tokens, and a canvas of this bundle has {n}; make holes or text shorter"
        )
    ids += _ended(manifest, n - length)
    pinned += [True] * (n - length)
    nothing = np.zeros(n, np.bool_)
    return Given(ids=np.array(ids), pinned=np.array(pinned), drafted=nothing, holes=holes, length=length)


def from_draft(manifest: Manifest, tokenizer: Tokenizer, text: str, strength: float) -> list[Given]:
    """The canvases of a draft, the last with the stop token, and padding behind it. Raises UsageError, TokenizerError."""
    n, ids = manifest.canvas_length, tokenizer.encode_user(text)
    ids += _ended(manifest, n - len(ids) % n)
    none, every = np.zeros(n, np.bool_), np.ones(n, np.bool_)
    return [
        Given(ids=np.array(ids[at : at + n]), pinned=none, drafted=every, strength=strength) for at in range(0, len(ids), n)
    ]


def _ended(manifest: Manifest, count: int) -> list[int]:
    """What stands behind an answer on its canvas."""
    stops: Sequence[int] = manifest.model.eos_token_ids[:1]
    if manifest.chat is not None:
        stops = end_of_turn(manifest, manifest.chat)
    padding: list[Any] = [manifest.model.pad_token_id] * count
    return [*stops, *padding][:count]


def _exact(tokenizer: Tokenizer, piece: str, follows: bool) -> list[int]:
    """Ids that say a piece exactly where it stands; raises UsageError where the tokenizer would add or change something."""
    ids = tokenizer.encode_user(piece)
    before = tokenizer.encode_user("a") if follows else []
    if tokenizer.decode([*before, *ids]) != tokenizer.decode(before) + piece:
        raise UsageError(
            Param("template"),
            f" text {piece[:40]!r} cannot be kept exactly by this bundle's tokenizer; write it in other words",
        )
    return ids
