"""A Denoiser with quantized weights in eager torch: the arithmetic that the engines run, to judge methods and artifacts by.

Inputs of every integer matrix are rounded per token (`activations.py`), integer products are exact. Nothing here makes integers
or knows of engines.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgemma.model.denoiser import Denoiser, Experts, TiedEmbedding, for_all_experts
from dgemma.quantize.activations import quantize_tokens
from dgemma.quantize.hadamard import hadamard
from dgemma.quantize.matrix import QuantizedMatrix

_EXACT = 1 << 24  # integers that float32 holds exactly


def integer_product(x: Tensor, integers: Tensor, scale: Tensor) -> Tensor:
    """x [..., M, in] float32, integers [..., out, in] float32 or float64, scale [..., out] → [..., M, out] float32."""
    rounded, inverse = quantize_tokens(x)
    product = (rounded.to(integers.dtype) @ integers.transpose(-2, -1)).float()
    return product * (1.0 / inverse) * scale[..., None, :]


class FakeQuantLinear(nn.Module):
    """Integer product with a quantized matrix; stacked matrices [E, …] give one product each."""

    integers: Tensor
    scale: Tensor
    hadamard: Tensor

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        exact = 128 * 127 * matrix.integers.shape[-1] <= _EXACT
        self.register_buffer("integers", matrix.expanded().to(torch.float32 if exact else torch.float64))
        self.register_buffer("scale", matrix.scale)
        self.rotation = matrix.rotation
        self.register_buffer("hadamard", None if matrix.rotation is None else hadamard(matrix.rotation))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., M, in] → [..., M, out]."""
        if self.rotation is not None:
            x = (x.unflatten(-1, (-1, self.rotation)) @ self.hadamard).flatten(-2)
        return integer_product(x, self.integers, self.scale)


class FakeQuantEmbedding(TiedEmbedding):
    """The tied table: rows looked up, the head as an integer product, the soft embedding of float probabilities."""

    def __init__(self, matrix: QuantizedMatrix) -> None:
        nn.Module.__init__(self)
        self.head = FakeQuantLinear(matrix)
        self.weight = nn.Parameter(matrix.dequantize(), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x)

    def expected(self, probabilities: Tensor) -> Tensor:
        return (probabilities * self.head.scale) @ self.head.integers.float()


class FakeQuantExperts(nn.Module):
    """Stacked experts as batched integer products; every expert is computed and weighted."""

    def __init__(self, gate_up: QuantizedMatrix, down: QuantizedMatrix) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = FakeQuantLinear(gate_up), FakeQuantLinear(down)

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """x [..., D], weights and ids [..., top_k] → [..., D]."""
        weights = for_all_experts(weights, ids, self.down_proj.integers.shape[0]).flatten(0, -2)  # [M, E]
        gate, up = self.gate_up_proj(x.reshape(1, -1, x.shape[-1])).chunk(2, dim=-1)  # [E, M, W]
        out = self.down_proj(F.gelu(gate, approximate="tanh") * up)  # [E, M, D]
        return (out * weights.t()[:, :, None]).sum(0).view_as(x)


def fake_quantize(model: Denoiser, quantized: Mapping[str, QuantizedMatrix]) -> Denoiser:
    """A copy of a float32 model in which every matrix of `quantized` runs on integers; the other weights are shared."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, dict(shared))
    _replace(made, quantized, "")
    return made.requires_grad_(False).eval()


def _replace(module: nn.Module, quantized: Mapping[str, QuantizedMatrix], prefix: str) -> None:
    for name, child in module.named_children():
        path = f"{prefix}{name}.weight"
        if isinstance(child, Experts):
            stacked = [f"{prefix}{name}.{part}_proj" for part in ("gate_up", "down")]
            if stacked[0] in quantized:
                setattr(module, name, FakeQuantExperts(*(quantized[part] for part in stacked)))
        elif path in quantized:
            kind = FakeQuantEmbedding if isinstance(child, nn.Embedding) else FakeQuantLinear
            setattr(module, name, kind(quantized[path]))
        else:
            _replace(child, quantized, f"{prefix}{name}.")
