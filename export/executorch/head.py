"""The head in XNNPACK, tile by tile: what a step decides, and the likeliest id, without products of the whole vocabulary.

Whatever is independent goes to XNNPACK as one program, whose outputs are all held at once. So a tile's product waits until all
is taken from the tile before, and gets the same memory. No kernel multiplies chosen rows of a delegated weight again: the
logits that a draw falls among are products of rows looked up, of so few ids that looking up is cheap.

Letters: R rows, V vocabulary, D hidden, K likeliest ids kept, J blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
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

PART = 16  # ids whose weights are summed first: a draw is known to as many before any logit of it is computed again


def spans(model: Denoiser) -> list[tuple[int, int]]:
    """First id and end of every tile."""
    return head.tiles(model.config.vocab_size, linear.TILE)


def unit(model: Denoiser, rows: Tensor, tile: int, done: Tensor) -> Tensor:
    """tanh of a tile's logits over the cap, [1, R, t], once `done` [1, R, 1] is known; rows [1, R, D]."""
    table: Any = model.embed_tokens
    return torch.tanh(table.product(rows + done * 0, tile) / model.config.final_logit_softcapping)


def greedy(model: Denoiser, rows: Tensor) -> Tensor:
    """Likeliest ids [1, R] of rows [1, R, D]."""
    done = torch.zeros(1, rows.shape[1], 1)
    best, ids = [], []
    for i, (start, _) in enumerate(spans(model)):
        units = unit(model, rows, i, done)
        at = units.argmax(-1, keepdim=True)  # [1, R, 1]
        done = units.gather(-1, at)
        best.append(done)
        ids.append(at + start)
    return torch.cat(ids, -1).gather(-1, torch.cat(best, -1).argmax(-1, keepdim=True)).squeeze(-1)


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
    done, total = torch.zeros(1, rows.shape[1], 1), None
    before = torch.full_like(done, head.BEFORE)
    kept = []
    for i, (start, _) in enumerate(spans(model)):
        logits = unit(model, rows, i, done) * scale
        largest, best, ids = candidates(logits, policy.top_k or 1)
        maximum = torch.maximum(before, largest)
        shifted = logits - maximum
        weights = shifted.exp()
        parts = ops.sums(_padded(weights), PART)  # [1, R, t / PART]
        moments = ops.sums(_padded(weights * shifted), sampler.BLOCK)  # [1, R, t / 256]
        moment = ops.sums(moments, moments.shape[-1])
        kept.append((maximum, parts, moment, best, ids + start))
        done = parts[..., :1] + moment
        if policy.top_k is None:
            share = table.expected(weights, start)
            total = share if total is None else total * (before - maximum).exp() + share
            done = done + total[..., :1]
        before = maximum
    maxima, parts, moments, best, ids = (torch.cat([tile[k] for tile in kept], -1) for k in range(5))
    parts = parts.unflatten(-1, (-1, sampler.BLOCK // PART))  # [1, R, J, 256 / PART]
    combine = head.Combine(policy, spans(model))
    argmax, entropy, sums, weight, likeliest, probabilities = combine(maxima, parts.sum(-1), moments, best, ids)
    accepted, block, *drawn = head.Draw(policy)(words, entropy, sums)
    lower = (maxima - before).index_select(-1, combine.tile_of_block).gather(-1, block[..., None])  # [1, R, 1]
    index = block[..., None, None].expand(*block.shape, 1, parts.shape[-1])
    parts = parts.gather(-2, index).squeeze(-2) * lower.exp()
    sampled = _draw(model, rows, parts, before, scale, block, *drawn)
    canvas = torch.where(accepted, sampled, sampler.tokens(words[None, 1], model.config.vocab_size))
    if total is not None:
        return canvas, argmax, entropy, accepted, head.Soft(model)(total, weight)
    soft = sum(row * probabilities[..., k, None] for k, row in enumerate(_rows(table, likeliest)))
    return canvas, argmax, entropy, accepted, soft * model.embed_scale


def candidates(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [1, R, t] → the largest [1, R, 1], some with the `count` largest among them, and their indices, [1, R, ≥ count].

    As in `head.likeliest`, but in no order: that of all tiles together is made once.
    """
    groups, count = logits.shape[-1] // head.GROUP, min(count, logits.shape[-1])
    if logits.shape[-1] % head.GROUP or groups < 4 * count:
        best, ids = logits.topk(count, dim=-1)
        return best[..., :1], best, ids
    grouped = logits.unflatten(-1, (head.GROUP, groups))
    best, chosen = grouped.amax(-2).topk(count, dim=-1)
    chosen = chosen[..., None, :]  # [1, R, 1, count]
    members = grouped.gather(-1, chosen.expand(-1, -1, head.GROUP, -1)).flatten(-2)
    ids = (chosen + torch.arange(0, logits.shape[-1], groups)[:, None]).flatten(-2)
    return best[..., :1], members, ids


def _padded(x: Tensor) -> Tensor:
    """[1, R, t] → t filled up with zeros to whole blocks."""
    missing = -x.shape[-1] % sampler.BLOCK
    return F.pad(x, (0, missing)) if missing else x


def _rows(table: Any, ids: Tensor) -> Iterator[Tensor]:
    """Rows [1, R, D] of ids [1, R, K], one id of each position at a time."""
    return (table(ids[..., k]) for k in range(ids.shape[-1]))


def _draw(
    model: Denoiser, rows: Tensor, parts: Tensor, maximum: Tensor, scale: Tensor,
    block: Tensor, before: Tensor, target: Tensor,
) -> Tensor:  # fmt: skip
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
    running = parts.double().cumsum(-1) + before
    part = (running <= target[..., None]).long().sum(-1).clamp(max=parts.shape[-1] - 1)  # [1, R]
    before = torch.cat([before, running], -1).gather(-1, part[..., None])
    first = block * sampler.BLOCK + part * PART
    ids = (first[..., None] + torch.arange(PART)).clamp(max=vocab - 1)  # [1, R, PART]
    read = table.read(rows)
    products = torch.cat([ops.sums(row * read, rows.shape[-1]) for row in _rows(table, ids)], -1)
    weights = (torch.tanh(products / cap) * scale - maximum).exp()
    inside = weights.double().cumsum(-1) + before
    last = (vocab - 1 - first).clamp(max=PART - 1)  # the part's last id that exists
    return first + torch.minimum((inside <= target[..., None]).long().sum(-1), last)
