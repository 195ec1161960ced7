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
        holes: first position and end, in the answer, of each hole of a template that begins on this canvas.
        length: tokens of a template on this canvas; None for a draft.
        ends: whether a template ends on this canvas, which ends the answer.
    """

    ids: Array
    pinned: Array
    drafted: Array
    strength: float = 1.0
    holes: Sequence[tuple[int, int]] = ()
    length: int | None = None
    ends: bool = True

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


def from_template(manifest: Manifest, tokenizer: Tokenizer, text: str) -> list[Given]:
    """The canvases of a template: its pieces and holes, behind them the stop token and padding.

    Raises UsageError.
    """
    ids, pinned, holes = list[int](), list[bool](), list[tuple[int, int]]()
    pieces, context = read_template(text), manifest.context
    if (blank := sum(piece for piece in pieces if isinstance(piece, int))) > context:
        raise UsageError(
            Param("template"), f" has holes of {blank} tokens, more than the context of {context}; make them shorter"
        )
    for piece in pieces:
        new = [0] * piece if isinstance(piece, int) else _exact(tokenizer, piece, bool(ids))
        if isinstance(piece, int):
            holes.append((len(ids), len(ids) + piece))
        ids += new
        pinned += [not isinstance(piece, int)] * len(new)
    length, n = len(ids), manifest.canvas_length
    ids += _ended(manifest, -length % n)
    pinned += [True] * (len(ids) - length)
    nothing = np.zeros(n, np.bool_)
    return [
        Given(
            ids=np.array(ids[at : at + n]),
            pinned=np.array(pinned[at : at + n]),
            drafted=nothing,
            holes=[hole for hole in holes if at <= hole[0] < at + n],
            length=min(n, length - at),
            ends=at + n >= length,
        )
        for at in range(0, length, n)
    ]


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
