"""Integer products as XNNPACK recognizes them: dynamic int8 activations per token, int8 weights per channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchao.quantization.pt2e.quantizer  # noqa: F401  (registers quantized_decomposed)
from torch import Tensor, nn

from dgemma.quantize.integers import QuantizedMatrix

_ops = torch.ops.quantized_decomposed


def _dynamic_int8(x: Tensor) -> Tensor:
    """Quantize and dequantize activations with one scale and zero point per token."""
    scale, zero = _ops.choose_qparams_per_token_asymmetric.default(x, torch.int8)
    integers = _ops.quantize_per_token.default(x, scale, zero, -128, 127, torch.int8)
    return _ops.dequantize_per_token.default(integers, scale, zero, -128, 127, torch.int8, torch.float32)


class Int8Linear(nn.Module):
    """weight int8 [out, in], scale [out]."""

    weight: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.register_buffer("weight", matrix.integers)
        self.register_buffer("scale", matrix.scale)
        self.register_buffer("zero", torch.zeros_like(matrix.scale, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out]."""
        weight = _ops.dequantize_per_channel.default(self.weight, self.scale, self.zero, 0, -127, 127, torch.int8)
        return F.linear(_dynamic_int8(x), weight)


class Int8Embedding(Int8Linear):
    """The tied table: rows looked up and dequantized, the head as an integer product."""

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight).float() * F.embedding(tokens, self.scale[:, None])

    def logits(self, x: Tensor) -> Tensor:
        return Int8Linear.forward(self, x)

    def expected(self, probabilities: Tensor) -> Tensor:
        table = self.weight.float()[None]
        return torch.bmm(probabilities * self.scale, table)  # batched, for XNNPACK takes no plain mm of two variables


def replace(model: nn.Module, quantized: dict[str, QuantizedMatrix], prefix: str = "") -> None:
    """Replace every quantized Linear and the tied embedding, in place."""
    for name, child in model.named_children():
        path = f"{prefix}{name}.weight"
        if path in quantized:
            kind = Int8Embedding if isinstance(child, nn.Embedding) else Int8Linear
            setattr(model, name, kind(quantized[path]))
        else:
            replace(child, quantized, f"{prefix}{name}.")
