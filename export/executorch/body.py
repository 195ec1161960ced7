"""The methods around the stack of layers, which is lowered once and whose programs are in the file once.

Letters: M rows of tokens or canvas, N canvas, C chunk, S prefix slots, D hidden, K kv heads, d head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgemma.core.sampler import SamplerConfig
from dgemma.export.executorch.head import greedy, sample
from dgemma.export.graphs import Sampled
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


class Check(Encode):
    """`graphs.Check` over a lowered stack."""

    def forward(self, tokens: Tensor, start: Tensor, rows: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """As `graphs.Check`."""
        hidden, *new = self.run(tokens, start, prefix)
        return [greedy(self.model, hidden.index_select(1, rows)), *new]


class DenoiseActive(nn.Module):
    """`graphs.DenoiseActive` over a lowered stack."""

    def __init__(self, model: Denoiser, stack: nn.Module, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.stack, self.policy = model, stack, policy
        self.register_buffer("mode", torch.tensor([True]), persistent=False)

    def run(
        self, canvas: Tensor, positions: Tensor, soft: Tensor, length: Tensor, settled: Tensor, prefix: list[Tensor]
    ) -> list[Tensor]:
        """Hidden states [1, A, D], then keys and values."""
        x = self.model.self_conditioning(self.model.embed(canvas), soft)
        return list(self.stack(x, length, self.mode, positions, settled, prefix))

    def forward(
        self,
        canvas: Tensor,
        positions: Tensor,
        soft: Tensor,
        words: Tensor,
        temperature: Tensor,
        prefix_length: Tensor,
        settled: Tensor,
        prefix: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """As `graphs.DenoiseActive`."""
        hidden, *new = self.run(canvas, positions, soft, prefix_length, settled, prefix)
        return (*sample(self.model, self.policy, hidden, words, temperature), *new)


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
        following, argmax, entropy, accepted, soft, drawn, likeliest, log_probs = step[:8]
        return following, argmax, entropy, accepted, soft, drawn, likeliest, log_probs


class DenoiseGuided(Denoise):
    """`graphs.DenoiseGuided` over a lowered stack."""

    def forward(  # type: ignore[override]
        self,
        canvas: Tensor,
        soft: Tensor,
        words: Tensor,
        temperature: Tensor,
        guidance: Tensor,
        negative: Tensor,
        prefix_length: Tensor,
        prefix: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """As `graphs.DenoiseGuided`."""
        positions = torch.arange(canvas.shape[1])[None]
        hidden = self.run(canvas, positions, soft, prefix_length, self.settled, prefix)[0]
        guided = negative + guidance * (hidden - negative)
        return (*sample(self.model, self.policy, guided, words, temperature), hidden)
