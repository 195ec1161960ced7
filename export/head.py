"""The head without logits of the whole vocabulary: it walks the tied table in tiles of ids and keeps what a step needs.

One pass: every tile's logits give a running maximum, the sums of their weights exp(l − maximum) by parts of 16 ids, and of
those by blocks of 256, the sum of weight times logarithm for the entropy, the likeliest ids, and where the soft embedding is
exact, the weighted sum of their rows, scaled again whenever the maximum grows (as flash attention does: Dao et al., arXiv
2205.14135). Then each position's draw is known to a block and a part of it, whose logits are multiplied once more. The order
of sums is the sampling contract's but for the parts, and weights of earlier tiles are rounded once more when the maximum
grows; so draws differ from `model.sampler` in near-ties alone.

Engines bring the table (`Table`) and put the modules together. Letters: R rows, t ids of
a tile, I tiles, J blocks, P parts, K likeliest ids kept (`SamplerConfig.candidates`), D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from dgemma.core.sampler import SamplerConfig
from dgemma.model import sampler
from dgemma.model.denoiser import HIDDEN, Denoiser

TILE = 8192  # ids, a multiple of the blocks: what onnxruntime was fastest with at 262,144 ids of 2,304
GROUP = 16  # ids whose maximum stands for them
PART = 16  # ids whose weights are summed first: so few logits of a draw are computed again
BEFORE = HIDDEN  # the maximum before the first tile
# Nats below the maximum: weights of 1e-35 add nothing to a sum; for denormal ones Intel's processors take 5 times as long.
FARTHEST = -80.0


class Table(Protocol):
    """The tied table as an engine lays it out."""

    upright: bool  # stored [V, D]; else [D, V]
    names: tuple[str, str | None]  # of what is stored, within the embedding: the table, and the scales [V] of its ids

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [1, R, D] as products read them, and what takes their products back, [1, R, 1]."""

    def tile(self, read: Tensor, inverse: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """Products [1, R, t] of rows and of a tile of what is stored: weight [t, D] or [D, t], scale [t]."""

    def chosen(self, read: Tensor, inverse: Tensor, ids: Tensor) -> Tensor:
        """Products [1, L] of one row, as `read` gave it without its first dimension, and the ids [L]."""

    def expected(self, weights: Tensor, first: Tensor) -> Tensor:
        """Weighted sum [1, R, D] of the t rows from `first` [1] on, weights [1, R, t]."""


def stored(model: Denoiser) -> Table:
    return cast(Table, model.embed_tokens)


def tiles(vocab_size: int, size: int | None = None) -> list[tuple[int, int]]:
    """First id and end of every tile, of `TILE` ids unless another size is given."""
    size = size or TILE
    return [(start, min(start + size, vocab_size)) for start in range(0, vocab_size, size)]


def read_rows(model: Denoiser, rows: Tensor) -> tuple[Tensor, Tensor]:
    """As `Table.read`, for products over the cap of the logits; rows [..., R, D]."""
    read, inverse = stored(model).read(rows)
    return read, inverse / model.config.final_logit_softcapping


class Read(nn.Module):
    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `read_rows`."""
        return read_rows(self.model, rows)


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of [1, R, t] and their indices, both [1, R, count], falling.

    They are among the `count` groups of 16 with the largest maxima, and a maximum is far cheaper than a place in an order. Of
    equal logits any may come first.
    """
    groups = logits.shape[-1] // GROUP
    if logits.shape[-1] % GROUP or groups < 4 * count:
        return logits.topk(count, dim=-1)
    grouped = logits.unflatten(-1, (GROUP, groups))  # a group's logits lie apart, so that maxima are of whole rows
    chosen = grouped.amax(-2).topk(count, dim=-1).indices  # [1, R, count]
    best, at = grouped.gather(-1, chosen[..., None, :].expand(-1, -1, GROUP, -1)).flatten(-2).topk(count, dim=-1)
    row = torch.div(at, count, rounding_mode="floor")
    return best, row * groups + chosen.gather(-1, at - row * count)


def measure(
    model: Denoiser, policy: SamplerConfig, unit: Tensor, first: Tensor | int, before: Tensor, temperature: Tensor
) -> tuple[Tensor, ...]:
    """What is kept of one tile.

    Args:
        unit: tanh of logits over the cap, [1, R, t].
        first: its first id, [1] or a number.
        before: maximum of the tiles before, [1, R, 1].
        temperature: [1].
    Returns:
        weights: exp(l − maximum), [1, R, t].
        maximum: of this tile and those before, [1, R, 1].
        parts, sums: of weights by parts, [1, R, p], and by blocks, [1, R, j].
        moment: sum of weight · (l − maximum), [1, R, 1].
        best, ids: the likeliest, falling, [1, R, K].
    """
    logits = unit * (model.config.final_logit_softcapping / temperature)
    best, ids = likeliest(logits, policy.candidates(unit.shape[-1]))
    maximum = torch.maximum(before, best[..., :1])
    shifted = (logits - maximum).clamp(min=FARTHEST)
    weights = shifted.exp()
    parts = sampler.in_blocks(weights).unflatten(-1, (-1, PART)).sum(-1)  # [1, R, j, 256 / PART]
    moment = sampler.in_blocks(weights * shifted).sum(-1).sum(-1, keepdim=True)
    return weights, maximum, parts.flatten(-2), parts.sum(-1), moment, best, ids + first


class Tile(nn.Module):
    """A tile's product and what is kept of it."""

    def __init__(self, model: Denoiser, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.policy = model, policy

    def forward(
        self, read: Tensor, inverse: Tensor, weight: Tensor, scale: Tensor, first: Tensor, before: Tensor, temperature: Tensor
    ) -> tuple[Tensor, ...]:
        """read, inverse, weight, scale as in `Table.tile`, the rest as in `measure`.

        Returns:
            unit [1, R, t], what `measure` makes of it, and [1, R, 1] a value that needs it all.
        """
        unit = torch.tanh(stored(self.model).tile(read, inverse, weight, scale))
        kept = measure(self.model, self.policy, unit, first, before, temperature)
        return unit, *kept, kept[4] + kept[3][..., :1]


class Absorb(nn.Module):
    """The weighted sum of rows, one tile more."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, total: Tensor, weights: Tensor, before: Tensor, maximum: Tensor, first: Tensor) -> Tensor:
        """total [1, R, D] relative to the maximum before [1, R, 1] → relative to the new one."""
        return total * (before - maximum).exp() + stored(self.model).expected(weights, first)


def tile_of_block(spans: Sequence[tuple[int, int]]) -> Tensor:
    """Numbers of tiles, [J]."""
    return torch.tensor([i for i, (start, end) in enumerate(spans) for _ in range(-(-(end - start) // sampler.BLOCK))])


class Combine(nn.Module):
    """All tiles' figures as those of the whole vocabulary."""

    def __init__(self, policy: SamplerConfig, spans: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.kept, self.averaged = policy.candidates(spans[-1][1]), policy.top_k or 1
        self.register_buffer("tile_of_block", tile_of_block(spans), persistent=False)

    tile_of_block: Tensor

    def forward(self, maxima: Tensor, sums: Tensor, moments: Tensor, best: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        """maxima, moments [1, R, I], sums [1, R, J], best, ids [1, R, all tiles' K].

        Returns:
            argmax [1, R], entropy [1, R] in nats, block sums [1, R, J] and their sum [1, R, 1] of exp(l − maximum of all),
            likeliest ids [1, R, K] and their log-probabilities [1, R, K], and of those that the soft embedding is the mean of,
            which come first, probabilities [1, R, k], which sum to 1.
        """
        lower = maxima - maxima[..., -1:]  # the last is the maximum of all
        growth, lower_by_block = lower.exp(), lower.index_select(-1, self.tile_of_block)
        sums = sums * growth.index_select(-1, self.tile_of_block)
        total = sums.sum(-1, keepdim=True)
        moment = (moments * growth).sum(-1, keepdim=True) + (sums * lower_by_block).sum(-1, keepdim=True)
        entropy = (total.log() - moment / total).squeeze(-1)
        top, order = best.topk(self.kept, dim=-1)
        likeliest, log_probs = ids.gather(-1, order), top - top[..., :1] - total.log()
        return likeliest[..., 0], entropy, sums, total, likeliest, log_probs, top[..., : self.averaged].softmax(-1)


class Draw(nn.Module):
    """Which positions are accepted, and the block of every draw."""

    def __init__(self, policy: SamplerConfig) -> None:
        super().__init__()
        self.bound = policy.entropy_bound

    def forward(self, words: Tensor, entropy: Tensor, sums: Tensor) -> tuple[Tensor, ...]:
        """words [2, R], entropy [1, R], sums [1, R, J] → accepted [1, R], then as `sampler.draw_block`."""
        return sampler.accept(entropy, self.bound), *sampler.draw_block(sums, sampler.uniforms(words[None, 0]))


class Part(nn.Module):
    """The part of every draw's block."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.register_buffer("tile_of_block", tile_of_block(spans), persistent=False)

    tile_of_block: Tensor

    def forward(self, parts: Tensor, maxima: Tensor, block: Tensor, before: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """parts [1, R, P] and maxima [1, R, I] of all tiles, the rest as `Draw` gave it → the part's first id [1, R], and the
        weights before it [1, R, 1] float64."""
        lower = (maxima - maxima[..., -1:]).gather(-1, self.tile_of_block[block][..., None])  # [1, R, 1]
        in_block = parts.unflatten(-1, (-1, sampler.BLOCK // PART))
        index = block[..., None, None].expand(*block.shape, 1, in_block.shape[-1])
        return part_of(in_block.gather(-2, index).squeeze(-2) * lower.exp(), block, before, target)


def part_of(parts: Tensor, block: Tensor, before: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the parts of every draw's block, [1, R, 256 / PART], the rest as `Draw` gave it → as `Part`."""
    running = parts.double().cumsum(-1) + before
    part = (running <= target[..., None]).long().sum(-1).clamp(max=parts.shape[-1] - 1)  # [1, R]
    before = torch.cat([before, running], -1).gather(-1, part[..., None])
    return block * sampler.BLOCK + part * PART, before


def ids_of(first: Tensor, vocab_size: int) -> Tensor:
    """Of a part, and where it goes beyond the vocabulary, the last one again: first [...] → [..., PART]."""
    return (first[..., None] + torch.arange(PART)).clamp(max=vocab_size - 1)


class Position(nn.Module):
    """What one position looks up in the table: the logits of its part, and where they are wanted, its likeliest rows' mean."""

    def __init__(self, model: Denoiser, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.has_soft = model, policy.top_k is not None

    def forward(
        self, read: Tensor, inverse: Tensor, first: Tensor, likeliest: Tensor, probabilities: Tensor
    ) -> tuple[Tensor, ...]:
        """read [D], inverse [1], first id [], likeliest ids [K], probabilities of the first k of them [k] → products over the
        cap [16], soft [D]."""
        ids = ids_of(first, self.model.config.vocab_size)
        products = stored(self.model).chosen(read[None], inverse[None], ids).squeeze(0)
        if not self.has_soft:
            return (products,)
        rows = self.model.embed_tokens(likeliest[: probabilities.shape[0]])
        return products, (probabilities[None] @ rows).squeeze(0) * self.model.embed_scale


class Weigh(nn.Module):
    """Weights of the parts that draws fall in, from products of their own."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, products: Tensor, temperature: Tensor, maximum: Tensor) -> Tensor:
        """products [R, 16] over the cap, temperature [1], maximum [1, R, 1] → [1, R, 16]."""
        cap = self.model.config.final_logit_softcapping
        return (torch.tanh(products[None]) * (cap / temperature) - maximum).exp()


class Pick(nn.Module):
    """The same from the weights of a vocabulary that is one tile, which are still there."""

    def forward(self, weights: Tensor, first: Tensor) -> Tensor:
        """weights [1, R, V], first ids [1, R] → [1, R, 16]."""
        return weights.gather(-1, ids_of(first, weights.shape[-1]))


class Choose(nn.Module):
    """The next canvas and what was drawn, from the weights of the parts that draws fall in."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(
        self, weights: Tensor, first: Tensor, before: Tensor, target: Tensor, words: Tensor, accepted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """weights [1, R, 16], first and before as `Part` gave them, the rest as `Draw` takes and gives it → [1, R] each."""
        drawn = sampler.draw_id(weights, first, before, target, self.vocab_size)
        return torch.where(accepted, drawn, sampler.tokens(words[None, 1], self.vocab_size)), drawn


class Soft(nn.Module):
    """The exact soft embedding, of the weighted sum of all rows."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, weighted: Tensor, total: Tensor) -> Tensor:
        """weighted [1, R, D], total weight [1, R, 1] → [1, R, D]."""
        return weighted / total * self.model.embed_scale


class Likeliest(nn.Module):
    """The soft embedding of the likeliest ids, all positions at once."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, likeliest: Tensor, probabilities: Tensor) -> Tensor:
        """likeliest ids [1, R, K], probabilities of the first k of them [1, R, k] → [1, R, D]."""
        rows = self.model.embed_tokens(likeliest[..., : probabilities.shape[-1]])
        return (probabilities[..., None, :] @ rows).squeeze(-2) * self.model.embed_scale
