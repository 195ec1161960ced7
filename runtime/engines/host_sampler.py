"""A step's sampler on the processor, from products with tiles of ids: the contract of docs/design/sampling.md in numpy.

Given the logits, draws follow the contract: block sums in float32, running sums in float64. A vocabulary of several tiles is
walked once for the figures of every block, and tiles in which draws fall are computed again, so only one tile of logits is held
at a time; a tile's weights are relative to its own maximum until all maxima are known. R rows, t ids of a tile, V vocabulary,
J blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.core.noise import token_from_word
from dgemma.core.sampler import SamplerConfig

Array = npt.NDArray[Any]
BLOCK = 256
Products = Callable[[int], Array]  # number of a tile → products of the rows with its ids, [R, t] float32, before the cap
Expected = Callable[[Array, int], Array]  # weights [R, t], first id → weighted sum of rows [R, D]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a step decides; ids int64 [R], entropy float32 nats [R], accepted bool [R], soft float32 [R, D], likeliest ids
    int64 [R, K], log-probabilities float32 [R, K]."""

    canvas: Array
    argmax: Array
    entropy: Array
    accepted: Array
    soft: Array
    drawn: Array
    likeliest: Array
    log_probs: Array


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The vocabulary in tiles: the first id and the end of each, all but the last a multiple of a block; and the cap."""

    spans: Sequence[tuple[int, int]]
    cap: float

    def logits(self, products: Array) -> Array:
        """Capped, float32."""
        cap = np.float32(self.cap)
        capped: Array = np.tanh(products.astype(np.float32) / cap) * cap
        return capped


def accept(entropy: Array, bound: float) -> Array:
    """Positions whose predecessors in entropy order (ties: lower index first) sum to at most the bound, in float64."""
    index = np.arange(len(entropy))
    mine, other = entropy[:, None], entropy[None]
    ahead = (other < mine) | ((other == mine) & (index[None] < index[:, None]))
    found: Array = (ahead * entropy.astype(np.float64)).sum(-1) <= bound
    return found


def next_tokens(tiles: Tiles, products: Products) -> Array:
    """The likeliest ids [R]; of equal ones the first."""
    best = ids = np.empty(0)
    for number, (first, _) in enumerate(tiles.spans):
        logits = tiles.logits(products(number))
        at, most = logits.argmax(-1), logits.max(-1)
        if number == 0:
            best, ids = most, at
        else:
            ids, best = np.where(most > best, at + first, ids), np.maximum(best, most)
    return ids


def sample(
    tiles: Tiles, products: Products, expected: Expected, embed: Callable[[Array], Array], policy: SamplerConfig,
    words: Array, temperature: float,
) -> Drawn:  # fmt: skip
    """One step. words int64 [2, R]; `expected` and `embed` of the table, scaled as embeddings are."""
    top_k, kept, made = policy.top_k, policy.candidates(tiles.spans[-1][1]), list[_Tile]()
    soft: Array | None = None
    maximum = np.empty(0)
    for number, (first, _) in enumerate(tiles.spans):
        tempered = tiles.logits(products(number)) / np.float32(temperature)
        tile = _Tile(tempered, first, kept, keeps=len(tiles.spans) == 1)
        higher = tile.maximum if number == 0 else np.maximum(maximum, tile.maximum)
        if top_k is None:
            mean = expected(np.exp(tempered - higher[:, None]), first)
            soft = mean if soft is None else soft * np.exp(maximum - higher)[:, None] + mean
        maximum = higher
        made.append(tile)
    growth = [np.exp(tile.maximum - maximum)[:, None] for tile in made]
    sums = np.concatenate([tile.sums * g for tile, g in zip(made, growth, strict=True)], -1)  # [R, J]
    total = sums.sum(-1)
    moment = sum((t.moment + t.sums.sum(-1) * (t.maximum - maximum)) * g[:, 0] for t, g in zip(made, growth, strict=True))
    entropy = (np.log(total) - moment / total).astype(np.float32)
    best = np.concatenate([tile.best for tile in made], -1)
    ids = np.concatenate([tile.ids for tile in made], -1)
    order = np.argsort(-best, -1, kind="stable")[:, :kept]
    best, ids = np.take_along_axis(best, order, -1), np.take_along_axis(ids, order, -1)
    if soft is not None:
        soft = soft / total[:, None]
    else:
        weights = np.exp(best[:, :top_k] - best[:, :1])
        soft = np.einsum("rk,rkd->rd", weights / weights.sum(-1, keepdims=True), embed(ids[:, :top_k]))
    drawn = _draw(tiles, products, made, maximum, sums, words[0], temperature)
    accepted = accept(entropy, policy.entropy_bound)
    renoised = token_from_word(words[1].astype(np.uint32), tiles.spans[-1][1])
    return Drawn(
        canvas=np.where(accepted, drawn, renoised).astype(np.int64),
        argmax=ids[:, 0].astype(np.int64),
        entropy=entropy,
        accepted=accepted,
        soft=soft.astype(np.float32),
        drawn=drawn.astype(np.int64),
        likeliest=ids.astype(np.int64),
        log_probs=(best - best[:, :1] - np.log(total)[:, None]).astype(np.float32),
    )


class _Tile:
    """Figures of one tile; `keeps`: its weights are kept, for a vocabulary that is one tile."""

    def __init__(self, tempered: Array, first: int, count: int, *, keeps: bool) -> None:
        self.maximum = tempered.max(-1)
        shifted = tempered - self.maximum[:, None]
        weights = np.exp(shifted)
        self.weights = weights if keeps else None
        self.sums = _blocks(weights).sum(-1)  # [R, J]
        self.moment = (weights * shifted).sum(-1)
        count = min(count, tempered.shape[-1])
        at = np.argpartition(-tempered, count - 1, -1)[:, :count]
        at.sort(-1)  # so that of equal ones the first comes first
        self.best, self.ids = np.take_along_axis(tempered, at, -1), at + first


def _blocks(weights: Array) -> Array:
    """[R, t] → [R, j, 256], filled up with zeros."""
    missing = -weights.shape[-1] % BLOCK
    return np.pad(weights, ((0, 0), (0, missing))).reshape(len(weights), -1, BLOCK)


def _draw(
    tiles: Tiles, products: Products, made: list[_Tile], maximum: Array, sums: Array, words: Array, temperature: float
) -> Array:
    """Ids [R] by inverse CDF: the block of every draw, then the id in it."""
    running = sums.astype(np.float64).cumsum(-1)
    uniform = (words.astype(np.int64) >> 8).astype(np.float64) * 2.0**-24
    target = uniform * running[:, -1]
    block = (running <= target[:, None]).sum(-1).clip(max=sums.shape[-1] - 1)  # [R]
    rows = np.arange(len(block))
    before = np.where(block > 0, running[rows, block - 1], 0.0)
    weights = np.zeros((len(block), BLOCK), np.float32)
    ends = np.array([end for _, end in tiles.spans])
    number_of = np.searchsorted(ends, block * BLOCK, side="right")
    for number in np.unique(number_of):
        first = tiles.spans[number][0]
        kept = made[number].weights
        chosen = rows[number_of == number]
        if kept is None:
            tempered = tiles.logits(products(int(number))[chosen]) / np.float32(temperature)
            kept_rows = np.exp(tempered - maximum[chosen, None])
        else:
            kept_rows = kept[chosen]
        weights[chosen] = _blocks(kept_rows)[np.arange(len(chosen)), block[chosen] - first // BLOCK]
    inside = weights.astype(np.float64).cumsum(-1) + before[:, None]
    last = (tiles.spans[-1][1] - 1 - block * BLOCK).clip(max=BLOCK - 1)
    found: Array = block * BLOCK + np.minimum((inside <= target[:, None]).sum(-1), last)
    return found
