"""The head in XNNPACK, strip by strip: a step's decisions and the likeliest id, without logits of the whole vocabulary.

XNNPACK gets everything that is independent as one program, and holds all its outputs at once. Each strip therefore waits until
the strip before has been used up, and reuses its memory. Within a strip, tiles follow one another: each is multiplied, weighted
and summed while it is in a cache. Its logits leave XNNPACK only because XNNPACK cannot look up the few that may be the
likeliest. No kernel can multiply selected rows of a delegated weight again, so the logits that a draw falls among are products
of rows that were looked up; these are few, so looking them up is cheap.

Letters: R rows, V vocabulary, D hidden, K likeliest ids kept, J blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.core.sampler import SamplerConfig
from dgemma.export import head
from dgemma.export.executorch import linear, ops
from dgemma.export.graphs import Sampled
from dgemma.model import sampler
from dgemma.model.denoiser import Denoiser

TOGETHER = 4  # tiles of the table to one program: fewer would round the rows more often, more would hold more logits


class Strip:
    """Neighbouring tiles of one size, that one program multiplies: their ids, as columns of `height` ids a step apart."""

    def __init__(self, tiles: list[int], spans: list[tuple[int, int]], kept: int) -> None:
        self.tiles, self.spans = tiles, spans
        size = spans[0][1] - spans[0][0]
        self.height = head.GROUP if size % head.GROUP == 0 and size >= 4 * head.GROUP * kept else 1
        self.width = size // self.height  # columns of a tile, and the step

    @property
    def first(self) -> Tensor:
        """Every column's first id, [columns]."""
        return torch.cat([torch.arange(start, start + self.width) for start, _ in self.spans])


def strips(model: Denoiser, kept: int) -> list[Strip]:
    """The whole table; `kept` ids are wanted of each."""
    spans = head.tiles(model.config.vocab_size, linear.TILE)
    whole = len(spans) if spans[-1][1] - spans[-1][0] == linear.TILE else len(spans) - 1
    cuts = [*range(0, whole, TOGETHER), *range(whole, len(spans) + 1)]
    return [Strip(list(range(a, b)), spans[a:b], kept) for a, b in pairwise(cuts)]


def unit(model: Denoiser, rows: Tensor, tile: int) -> Tensor:
    """tanh of a tile's logits over the cap, [1, R, t]; rows [1, R, D]."""
    table: Any = model.embed_tokens
    return torch.tanh(table.product(rows, tile) / model.config.final_logit_softcapping)


def after(rows: Tensor, done: Tensor) -> Tensor:
    """Rows [1, R, D], once `done` [1, R, 1] is known."""
    return rows + done * 0


def greedy(model: Denoiser, rows: Tensor) -> Tensor:
    """Likeliest ids [1, R] of rows [1, R, D]."""
    done = torch.zeros(1, rows.shape[1], 1)
    best, ids = [], []
    for strip in strips(model, 1):
        waiting = after(rows, done)
        units = _joined([unit(model, waiting, tile) for tile in strip.tiles])
        at = units.argmax(-1, keepdim=True)  # [1, R, 1]
        done = units.gather(-1, at)
        best.append(done)
        ids.append(at + strip.spans[0][0])
    return _joined(ids).gather(-1, _joined(best).argmax(-1, keepdim=True)).squeeze(-1)


def sample(model: Denoiser, policy: SamplerConfig, rows: Tensor, words: Tensor, temperature: Tensor) -> Sampled:
    """What a step decides.

    Args:
        rows: last hidden states [1, R, D].
        words: [2, R].
        temperature: [1].
    Returns:
        `denoise`'s outputs in their order.
    """
    table: Any = model.embed_tokens
    scale = model.config.final_logit_softcapping / temperature
    walk = Walk(model, policy, rows, scale)
    maxima, sums, moments, best, ids = walk.figures()
    combine = head.Combine(policy, walk.spans)
    argmax, entropy, sums, weight, likeliest, log_probs, probabilities = combine(maxima, sums, moments, best, ids)
    accepted, block, *drawn = head.Draw(policy)(words, entropy, sums)
    lower = (maxima - walk.maximum).index_select(-1, combine.tile_of_block).gather(-1, block[..., None])  # [1, R, 1]
    sampled = _draw(model, rows, walk.parts_of(block) * lower.exp(), walk.maximum, scale, block, *drawn)
    canvas = torch.where(accepted, sampled, sampler.tokens(words[None, 1], model.config.vocab_size))
    width = model.config.hidden_size
    if walk.total is not None:
        soft = head.Soft(model)(walk.total[..., :width], weight)
    else:
        averaged = _rows(table, likeliest[..., : probabilities.shape[-1]])
        soft = sum(row * probabilities[..., k, None] for k, row in enumerate(averaged))[..., :width] * model.embed_scale
    return canvas, argmax, entropy, accepted, soft, sampled, likeliest, log_probs


class Walk:
    """Over the table, strip by strip: the running maximum, and what is kept of each.

    Attributes:
        spans: first id and end of every tile.
        maximum: of all logits, [1, R, 1].
        total: the weighted sum of all rows, [1, R, D + padding], relative to the maximum, where the soft embedding is exact.
    """

    def __init__(self, model: Denoiser, policy: SamplerConfig, rows: Tensor, scale: Tensor) -> None:
        self._model, self._scale, self._exact = model, scale, policy.top_k is None
        self._index = torch.arange(rows.shape[1])[None, :, None]  # [1, R, 1]
        self.maximum = torch.full((1, rows.shape[1], 1), head.BEFORE)
        self.total: Tensor | None = None
        self.spans: list[tuple[int, int]] = []
        self._kept: list[tuple[Tensor, ...]] = []
        self._parts: list[Tensor] = []
        self._done = torch.zeros(1, rows.shape[1], 1)
        kept = policy.candidates(model.config.vocab_size)
        for strip in strips(model, kept):
            self._done = self._strip(strip, after(rows, self._done), kept)

    def figures(self) -> tuple[Tensor, ...]:
        """As `head.Combine` takes them."""
        maxima, *others = (_joined([strip[k] for strip in self._kept]) for k in range(5))
        return after(maxima, self._done), *others

    def parts_of(self, block: Tensor) -> Tensor:
        """Weights of the parts of a block of each row [1, R], relative to its tile's maximum → [1, R, 256 / PART]."""
        start, found = 0, None
        for parts in self._parts:
            count, each = parts.shape[-1] * head.PART // sampler.BLOCK, sampler.BLOCK // head.PART
            index = (block - start).clamp(0, count - 1) + self._index[..., 0] * count
            here = F.embedding(index, parts.reshape(-1, each))
            found = here if found is None else torch.where((block < start)[..., None], found, here)
            start += count
        assert found is not None
        return found

    def _strip(self, strip: Strip, rows: Tensor, kept: int) -> Tensor:
        """Takes what is wanted of a strip; returns a value [1, R, 1] that needs all of it, by kernels not of XNNPACK, so
        that what waits for it cannot be part of the same program."""
        logits, columns, parts, figures = [], [], [], []
        for tile in strip.tiles:
            logits.append(ops.heads(unit(self._model, rows, tile) * self._scale, strip.height))  # [1, R, height, width]
            columns.append(ops.largest(logits[-1]))  # [1, R, width]
            part, moment = self._tile(tile, logits[-1], columns[-1])
            parts.append(part)
            figures.append((self.maximum, moment))
        best, ids = self._candidates(strip, _joined(logits), _joined(columns), kept)
        maxima, moments = (_joined([tile[k] for tile in figures]) for k in range(2))
        self._parts.append(_joined(parts))
        sums = self._parts[-1].unflatten(-1, (-1, sampler.BLOCK // head.PART)).sum(-1)
        self._kept.append((maxima, sums, moments, best, ids))
        self.spans += strip.spans
        needed = [maxima, moments]
        if self.total is not None:
            needed.append(ops.sums(self.total, self.total.shape[-1]))
        return _joined(needed).sum(-1, keepdim=True) + sums[..., :1] + best[..., :1]

    def _tile(self, tile: int, logits: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """logits [1, R, height, width], their columns' maxima [1, R, width] → sums of weights exp(l − maximum) by parts,
        [1, R, t / PART], and the sum of weight · (l − maximum), [1, R, 1]."""
        before, self.maximum = self.maximum, torch.maximum(self.maximum, _largest(columns))
        shifted = logits - ops.heads(self.maximum, 1)
        weights = shifted.exp()
        moments = ops.sums(_padded(weights * shifted), sampler.BLOCK)  # [1, R, t / 256]
        if self._exact:
            table: Any = self._model.embed_tokens
            share = table.share(ops.flat(weights), tile)
            self.total = share if self.total is None else self.total * (before - self.maximum).exp() + share
        return ops.sums(_padded(weights), head.PART), ops.sums(moments, moments.shape[-1])

    def _candidates(self, strip: Strip, logits: Tensor, columns: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        """logits [1, R, height, C], their columns' maxima [1, R, C] → some with the `kept` largest among them, and their ids,
        [1, R, ≥ kept].

        As in `head.likeliest`, but in no order: that of all strips together is made once.
        """
        chosen = columns.topk(min(kept, columns.shape[-1]), dim=-1).indices
        size = columns.shape[-1]
        line = self._index * (size * strip.height) + torch.arange(0, size * strip.height, size)  # [1, R, height]
        index = (chosen[..., None, :] + line[..., None]).flatten(-2)  # looked up, for a gather takes ten times as long
        members = F.embedding(index, logits.reshape(-1, 1)).squeeze(-1)
        first = F.embedding(chosen, strip.first[:, None]).squeeze(-1)
        ids = first[..., None, :] + torch.arange(0, strip.width * strip.height, strip.width)[:, None]
        return members, ids.flatten(-2)


def _joined(tensors: list[Tensor]) -> Tensor:
    """Along the last dimension."""
    return torch.cat(tensors, -1) if len(tensors) > 1 else tensors[0]


def _largest(x: Tensor) -> Tensor:
    """[1, R, n] → [1, R, 1]."""
    for window in ops.windows(x.shape[-1]):
        x = ops.largest(ops.heads(x, window))
    return x


def _padded(x: Tensor) -> Tensor:
    """[..., t] → t filled up with zeros to whole blocks, where a row is no multiple of them."""
    missing = -math.prod(x.shape[2:]) % sampler.BLOCK
    return F.pad(x, (0, missing)) if missing else x


def _rows(table: Any, ids: Tensor) -> Iterator[Tensor]:
    """Rows [1, R, D + padding] of ids [1, R, K], one id of each position at a time."""
    return (table.padded(ids[..., k]) for k in range(ids.shape[-1]))


def _draw(
    model: Denoiser,
    rows: Tensor,
    parts: Tensor,
    maximum: Tensor,
    scale: Tensor,
    block: Tensor,
    before: Tensor,
    target: Tensor,
) -> Tensor:
    """As `sampler.draw_id`, in two steps: the part of the block, then the id in the part.

    Args:
        rows: [1, R, D].
        parts: weights of the block's parts, [1, R, 256 / PART].
        maximum: of the logits, [1, R, 1].
        scale: the cap over the temperature, [1].
        block, before, target: as `sampler.draw_block` gave them.
    Returns:
        ids [1, R].
    """
    table: Any = model.embed_tokens
    vocab, cap = model.config.vocab_size, model.config.final_logit_softcapping
    first, before = head.part_of(parts, block, before, target)
    ids = head.ids_of(first, vocab)  # [1, R, PART]
    read = table.read(rows)
    read = F.pad(read, (0, table.columns - read.shape[-1]))
    products = torch.cat([ops.sums(row * read, table.columns) for row in _rows(table, ids)], -1)
    weights = (torch.tanh(products / cap) * scale - maximum).exp()
    return sampler.draw_id(weights, first, before, target, vocab)
