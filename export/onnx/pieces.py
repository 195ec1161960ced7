"""The parts of the denoiser that the ONNX graphs are put together from, each traced once.

`body.py` wires them up, so that one node holds each weight whatever a graph is asked to do. Letters: M rows of tokens or
canvas, N canvas, A active ones, R rows for the head, S prefix slots, K kv heads, d head dim, D hidden, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from dgemma.core.config import ModelConfig
from dgemma.core.manifest import TensorSpec
from dgemma.core.sampler import SamplerConfig
from dgemma.export.graphs import Stack, Steer, prefix_specs, stack_inputs
from dgemma.export.onnx.head_pieces import Pieces, head_pieces
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


BODY = ("embed", "condition", "stack")  # the other pieces are the head's and the loop's


def pieces(model: Denoiser, policy: SamplerConfig) -> Pieces:
    """Name → module, inputs and outputs, in the order of computation."""
    config: ModelConfig = model.config
    hidden = config.hidden_size

    def spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    return {
        "embed": (Embed(model), [spec("ids", "int64", 1, "M")], [spec("embedded", "float32", 1, "M", hidden)]),
        "condition": (
            Condition(model),
            [spec("embedded", "float32", 1, "A", hidden), spec("soft", "float32", 1, "A", hidden)],
            [spec("conditioned", "float32", 1, "A", hidden)],
        ),
        "stack": (
            Stack(model),
            stack_inputs(config),
            [spec("hidden", "float32", 1, "M", hidden), *prefix_specs(config, "M", "new")],
        ),
        **head_pieces(model, policy),
        "steer": (
            Steer(config.vocab_size),
            [
                spec("words", "int64", 2, "R"),
                spec("argmax", "int64", 1, "R"),
                spec("entropy", "float32", 1, "R"),
                spec("drawn", "int64", 1, "R"),
                spec("temperature", "float32", 1),
                spec("bound", "float64", 1),
            ],
            [spec("next_canvas", "int64", 1, "R"), spec("accepted", "bool", 1, "R")],
        ),
    }
