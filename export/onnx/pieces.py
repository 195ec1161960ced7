"""The parts of the denoiser that the ONNX graphs are put together from, each traced once.

`body.py` wires them up, so that one node holds each weight whatever a graph is asked to do. Letters: M rows of tokens or
canvas, N canvas, R rows for the head, S prefix slots, K kv heads, d head dim, D hidden, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from dgemma.core.config import ModelConfig
from dgemma.core.manifest import TensorSpec
from dgemma.core.sampler import SamplerConfig
from dgemma.export.graphs import Sampled, Stack, prefix_specs, sample, stack_inputs
from dgemma.model.denoiser import Denoiser


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

    def forward(self, logits: Tensor, words: Tensor, temperature: Tensor) -> Sampled:
        """logits [1, N, V], words [2, N], temperature [1] → next canvas, argmax, entropy, accepted [1, N], soft [1, N, D]."""
        return sample(self.model, self.policy, logits, words, temperature)


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
            Stack(model), stack_inputs(config), [spec("hidden", "float32", 1, "M", hidden), *prefix_specs(config, "M", "new")],
        ),
        "head": (Head(model), [spec("rows", "float32", 1, "R", hidden)], [spec("logits", "float32", 1, "R", vocab)]),
        "sample": (
            Sample(model, policy),
            [spec("logits", "float32", 1, n, vocab), spec("words", "int64", 2, n), spec("temperature", "float32", 1)],
            canvas,
        ),
    }  # fmt: skip
