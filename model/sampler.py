"""One denoising step's sampler in PyTorch, written so that `torch.export` lowers it into the graphs.

The order of sums follows the sampling contract: inverse CDF over blocks of 256 ids, acceptance by an N × N comparison.
Noise arrives as words (see `core/noise.py`); this module makes none. B batch, N canvas, V vocabulary, J blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256


class SampledStep(NamedTuple):
    """What one denoising step decides; ids int64 [B, N], entropy float32 nats [B, N], accepted bool [B, N].

    `drawn`: what every position draws, accepted or not.
    """

    canvas: Tensor
    argmax: Tensor
    entropy: Tensor
    accepted: Tensor
    drawn: Tensor


def uniforms(words: Tensor) -> Tensor:
    """words (int64 holding 32 bits) → uniforms in [0, 1) as float64: (word >> 8) · 2⁻²⁴, exact."""
    return torch.div(words, 256, rounding_mode="floor").double() * 2.0**-24


def tokens(words: Tensor, vocab_size: int) -> Tensor:
    """words → uniform ids: (word · V) >> 32; the product fits into 63 bits for V < 2³¹."""
    return torch.div(words * vocab_size, 1 << 32, rounding_mode="floor")


def draw_block(sums: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The block that a draw falls in.

    Args:
        sums: [B, N, J] float32, sums of weights over blocks of ids.
        u: [B, N] float64.
    Returns:
        block [B, N], the weights before it [B, N, 1] float64, and the running sum to go beyond, [B, N] float64.
    """
    running = sums.double().cumsum(-1)
    target = u * running[..., -1]
    block = (running <= target[..., None]).long().sum(-1).clamp(max=sums.shape[-1] - 1)  # first block beyond the target
    return block, F.pad(running, (1, 0)).gather(-1, block[..., None]), target


def draw_id(weights: Tensor, first: Tensor, before: Tensor, target: Tensor, vocab_size: int) -> Tensor:
    """The id that a draw falls on, of neighbouring ones.

    Args:
        weights: of those ids, [B, N, L] float32.
        first: their first id, [B, N].
        before, target: as `draw_block` gives them.
    Returns:
        ids [B, N].
    """
    inside = weights.double().cumsum(-1) + before
    last = (vocab_size - 1 - first).clamp(max=weights.shape[-1] - 1)  # the last of them that exists
    return first + torch.minimum((inside <= target[..., None]).long().sum(-1), last)


def in_blocks(weights: Tensor) -> Tensor:
    """[B, N, V] → [B, N, J, 256], filled up with zeros."""
    missing = -weights.shape[-1] % BLOCK
    return (F.pad(weights, (0, missing)) if missing else weights).unflatten(-1, (-1, BLOCK))


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """Draw one id per row: weights [B, N, V] float32 = exp(l − max), u [B, N] float64 → ids [B, N]."""
    padded = in_blocks(weights)
    block, before, target = draw_block(padded.sum(-1), u)
    index = block[..., None, None].expand(*block.shape, 1, BLOCK)
    return draw_id(padded.gather(-2, index).squeeze(-2), block * BLOCK, before, target, weights.shape[-1])


def accept(entropy: Tensor, bound: float | Tensor) -> Tensor:
    """Positions whose predecessors in entropy order (ties: lower index first) sum to at most the bound, in float64.

    The same set as sorting and `cumsum − own ≤ bound`: Ben-Hamu et al., "Accelerated Sampling from Masked Diffusion
    Models via Entropy Bounded Unmasking" (arXiv 2505.24857).
    """
    index = torch.arange(entropy.shape[-1])
    mine, other = entropy[..., :, None], entropy[..., None, :]
    ahead = (other < mine) | ((other == mine) & (index[None, :] < index[:, None]))  # [B, N, N]
    return (ahead.double() * entropy.double()[..., None, :]).sum(-1) <= bound


def step(tempered: Tensor, words: Tensor, bound: float) -> SampledStep:
    """tempered [B, N, V] float32 logits over temperature; words [B, 2, N], row 0 samples and row 1 renoises."""
    vocab = tempered.shape[-1]
    shifted = tempered - tempered.amax(-1, keepdim=True)
    weights = shifted.exp()
    total = weights.sum(-1)
    entropy = total.log() - (weights * shifted).sum(-1) / total
    sampled = inverse_cdf(weights, uniforms(words[:, 0]))
    accepted = accept(entropy, bound)
    canvas = torch.where(accepted, sampled, tokens(words[:, 1], vocab))
    return SampledStep(canvas, tempered.argmax(-1), entropy, accepted, sampled)


def candidates(tempered: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest ids, falling, int64 [B, N, K], and their log-probabilities, float32 [B, N, K].

    Of equally likely ids any may come first. tempered [B, N, V] as in `step`.
    """
    best, ids = tempered.topk(count, dim=-1)
    maximum = best[..., :1]
    return ids, best - maximum - (tempered - maximum).exp().sum(-1, keepdim=True).log()
