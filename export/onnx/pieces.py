"""The parts of the denoiser that the ONNX graphs are put together from, each traced once.

`body.py` wires them up, so that one node holds each weight whatever a graph is asked to do. Letters: M rows of tokens or
canvas, N canvas, R rows for the head, S prefix slots, K kv heads, d head dim, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgemma.core.config import ModelConfig
from dgemma.core.manifest import TensorSpec
from dgemma.core.sampler import SamplerConfig
from dgemma.export.graphs import flatten, pairs, prefix_specs
from dgemma.model import sampler
from dgemma.model.denoiser import Denoiser, denoise_masks, encode_masks


class Embed(nn.Module):
    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """ids [1, M] → [1, M, D]."""
        return self.model.embed(ids)


class Condition(nn.Module):
    """Self-conditioning of an embedded canvas."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedded: Tensor, soft: Tensor) -> Tensor:
        """embedded, soft [1, N, D] → [1, N, D]."""
        return self.model.self_conditioning(embedded, soft)


class Stack(nn.Module):
    """All layers in either mode: causal over new tokens, or bidirectional over a canvas."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, length: Tensor, is_canvas: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """x [1, M, D], length [1], is_canvas bool [1], prefix [1, S, K, d] each → hidden [1, M, D], new keys and values."""
        config, rows, slots = self.model.config, x.shape[1], prefix[0].shape[1]
        causal, canvas = encode_masks(config, rows, slots, length), denoise_masks(config, rows, slots, length)
        sliding, full = (b & is_canvas | a & ~is_canvas for a, b in zip(causal, canvas, strict=True))
        hidden, new = self.model.stack(x, torch.arange(rows) + length, (sliding, full), pairs(prefix), is_canvas)
        return [hidden, *flatten(new)]


class Head(nn.Module):
    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [1, R, D] → softcapped logits [1, R, V]."""
        return self.model.head(hidden)


class Sample(nn.Module):
    """The sampler and the next step's soft embedding."""

    def __init__(self, model: Denoiser, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.policy = model, policy

    def forward(self, logits: Tensor, words: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """logits [1, N, V], words [2, N], temperature [1] → next canvas, argmax, entropy, accepted [1, N], soft [1, N, D]."""
        tempered = logits / temperature
        step = sampler.step(tempered, words[None], self.policy.entropy_bound)
        return step.canvas, step.argmax, step.entropy, step.accepted, self.model.soft_embed(tempered)


def pieces(
    model: Denoiser, policy: SamplerConfig, canvas_length: int
) -> dict[str, tuple[nn.Module, list[TensorSpec], list[TensorSpec]]]:
    """Name → module, inputs and outputs, in the order of computation."""
    config: ModelConfig = model.config
    hidden, vocab, n = config.hidden_size, config.vocab_size, canvas_length

    def spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    canvas = [
        spec("next_canvas", "int64", 1, n), spec("argmax", "int64", 1, n), spec("entropy", "float32", 1, n),
        spec("accepted", "bool", 1, n), spec("next_soft", "float32", 1, n, hidden),
    ]  # fmt: skip
    return {
        "embed": (Embed(model), [spec("ids", "int64", 1, "M")], [spec("embedded", "float32", 1, "M", hidden)]),
        "condition": (
            Condition(model),
            [spec("embedded", "float32", 1, n, hidden), spec("soft", "float32", 1, n, hidden)],
            [spec("conditioned", "float32", 1, n, hidden)],
        ),
        "stack": (
            Stack(model),
            [
                spec("x", "float32", 1, "M", hidden), spec("length", "int64", 1), spec("is_canvas", "bool", 1),
                *prefix_specs(config, "S"),
            ],
            [spec("hidden", "float32", 1, "M", hidden), *prefix_specs(config, "M", "new")],
        ),
        "head": (Head(model), [spec("rows", "float32", 1, "R", hidden)], [spec("logits", "float32", 1, "R", vocab)]),
        "sample": (
            Sample(model, policy),
            [spec("logits", "float32", 1, n, vocab), spec("words", "int64", 2, n), spec("temperature", "float32", 1)],
            canvas,
        ),
    }  # fmt: skip
