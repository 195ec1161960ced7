"""The methods around one lowered stack of layers: it is lowered once, and its programs are in the file once.

Letters: M rows of tokens or canvas, N canvas, C chunk, S prefix slots, D hidden, K kv heads, d head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dgemma.core.sampler import SamplerConfig
from dgemma.export import head
from dgemma.export.executorch import linear
from dgemma.export.graphs import Sampled
from dgemma.model import sampler
from dgemma.model.denoiser import Denoiser


class Encode(nn.Module):
    """`graphs.Encode` over a lowered stack."""

    def __init__(self, model: Denoiser, stack: nn.Module) -> None:
        super().__init__()
        self.model, self.stack = model, stack
        self.register_buffer("mode", torch.tensor([False]), persistent=False)
        self.register_buffer("settled", torch.tensor([[False]]), persistent=False)

    def run(self, tokens: Tensor, start: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """Hidden states [1, C, D], then new keys and values."""
        positions = torch.arange(tokens.shape[1])[None]
        return list(self.stack(self.model.embed(tokens), start, self.mode, positions, self.settled, prefix))

    def forward(self, tokens: Tensor, start: Tensor, count: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """As `graphs.Encode`."""
        return self.run(tokens, start, prefix)[1:]


class Decode(Encode):
    """`graphs.Decode` over a lowered stack."""

    def forward(self, tokens: Tensor, start: Tensor, count: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """As `graphs.Decode`."""
        hidden, *new = self.run(tokens, start, prefix)
        last = hidden.index_select(1, count - 1)  # [1, 1, D]
        return [self.model.head(last)[:, 0].argmax(-1), *new]


class DenoiseActive(nn.Module):
    """`graphs.DenoiseActive` over a lowered stack."""

    def __init__(self, model: Denoiser, stack: nn.Module, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.stack, self.policy = model, stack, policy
        self.register_buffer("mode", torch.tensor([True]), persistent=False)

    def forward(
        self, canvas: Tensor, positions: Tensor, soft: Tensor, words: Tensor, temperature: Tensor, prefix_length: Tensor,
        settled: Tensor, prefix: list[Tensor],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """As `graphs.DenoiseActive`."""
        x = self.model.self_conditioning(self.model.embed(canvas), soft)
        hidden, *new = self.stack(x, prefix_length, self.mode, positions, settled, prefix)
        return (*sample(self.model, self.policy, self.model.embed_tokens.logits(hidden), words, temperature), *new)


class Denoise(DenoiseActive):
    """`graphs.Denoise` over a lowered stack: every position is active, and its keys and values are nobody's."""

    settled: Tensor

    def __init__(self, model: Denoiser, stack: nn.Module, policy: SamplerConfig) -> None:
        super().__init__(model, stack, policy)
        self.register_buffer("settled", torch.tensor([[False]]), persistent=False)

    def forward(  # type: ignore[override]
        self, canvas: Tensor, soft: Tensor, words: Tensor, temperature: Tensor, prefix_length: Tensor, prefix: list[Tensor]
    ) -> Sampled:
        """As `graphs.Denoise`."""
        positions = torch.arange(canvas.shape[1])[None]
        step = super().forward(canvas, positions, soft, words, temperature, prefix_length, self.settled, prefix)
        following, argmax, entropy, accepted, soft = step[:5]
        return following, argmax, entropy, accepted, soft


def sample(model: Denoiser, policy: SamplerConfig, products: Tensor, words: Tensor, temperature: Tensor) -> Sampled:
    """What a step decides, tile by tile: only the products [1, N, V] themselves, before the softcap, are held whole.

    There is no kernel that multiplies chosen rows of a delegated weight again, so the block of a draw is read from them.
    words [2, N], temperature [1]; returns `denoise`'s outputs in their order.
    """
    table: Any = model.embed_tokens
    cap, spans = model.config.final_logit_softcapping, head.tiles(model.config.vocab_size, linear.TILE)
    before, total = torch.full((1, products.shape[1], 1), head.BEFORE), None
    found = []
    for i, (start, end) in enumerate(spans):
        unit = torch.tanh(products[..., start:end] / cap)
        weights, *kept = head.measure(model, policy, unit, start, before, temperature)
        if policy.top_k is None:
            share = table.expected(weights, i)
            total = share if total is None else total * (before - kept[0]).exp() + share
        before = kept[0]
        found.append(kept)
    parts = [torch.cat([kept[i] for kept in found], -1) for i in range(5)]
    argmax, entropy, sums, weight, likeliest, probabilities = head.Combine(policy, spans)(*parts)
    accepted, block, *drawn = head.Draw(policy)(words, entropy, sums)
    ids = block[..., None] * sampler.BLOCK + torch.arange(sampler.BLOCK)
    inside = products.gather(-1, ids.clamp(max=model.config.vocab_size - 1))  # [1, N, 256]
    inside = (torch.tanh(inside / cap) * (cap / temperature) - before).exp()
    canvas = head.Choose(model.config.vocab_size)(inside, block, *drawn, words, accepted)
    if total is not None:
        return canvas, argmax, entropy, accepted, head.Soft(model)(total, weight)
    rows = model.embed_tokens(likeliest.flatten(-2)).unflatten(1, likeliest.shape[-2:])  # [1, N, K, D]
    return canvas, argmax, entropy, accepted, (probabilities[..., None, :] @ rows).squeeze(-2) * model.embed_scale
