"""The methods around one lowered stack of layers: it is lowered once, and its programs are in the file once.

Letters: M rows of tokens or canvas, N canvas, C chunk, S prefix slots, D hidden, K kv heads, d head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgemma.core.sampler import SamplerConfig
from dgemma.export.graphs import Sampled, sample
from dgemma.model.denoiser import Denoiser


class Encode(nn.Module):
    """`graphs.Encode` over a lowered stack."""

    def __init__(self, model: Denoiser, stack: nn.Module) -> None:
        super().__init__()
        self.model, self.stack = model, stack
        self.register_buffer("mode", torch.tensor([False]), persistent=False)

    def forward(self, tokens: Tensor, start: Tensor, count: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """As `graphs.Encode`."""
        return list(self.stack(self.model.embed(tokens), start, self.mode, prefix)[1:])


class Decode(Encode):
    """`graphs.Decode` over a lowered stack."""

    def forward(self, tokens: Tensor, start: Tensor, count: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """As `graphs.Decode`."""
        hidden, *new = self.stack(self.model.embed(tokens), start, self.mode, prefix)
        last = hidden.index_select(1, count - 1)  # [1, 1, D]
        return [self.model.head(last)[:, 0].argmax(-1), *new]


class Denoise(nn.Module):
    """`graphs.Denoise` over a lowered stack."""

    def __init__(self, model: Denoiser, stack: nn.Module, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.stack, self.policy = model, stack, policy
        self.register_buffer("mode", torch.tensor([True]), persistent=False)

    def forward(
        self, canvas: Tensor, soft: Tensor, words: Tensor, temperature: Tensor, prefix_length: Tensor, prefix: list[Tensor]
    ) -> Sampled:
        """As `graphs.Denoise`."""
        x = self.model.self_conditioning(self.model.embed(canvas), soft)
        logits = self.model.head(self.stack(x, prefix_length, self.mode, prefix)[0])
        return sample(self.model, self.policy, logits, words, temperature)
