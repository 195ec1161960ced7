"""How large quantized weights are, all scales counted."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from dgemma.quantize.matrix import QuantizedMatrix


def matrix_bits(matrix: QuantizedMatrix) -> int:
    """Bits of one matrix as stored: integers, multipliers of 4 bits, scales of 32."""
    multipliers = 0 if matrix.multipliers is None else 4 * matrix.multipliers.numel()
    return matrix.bits * matrix.integers.numel() + multipliers + 32 * matrix.scale.numel()


def bits_per_weight(model: nn.Module, quantized: Mapping[str, QuantizedMatrix]) -> float:
    """Mean bits of a parameter; what is not quantized counts 32."""
    bits = parameters = 0
    for name, parameter in model.named_parameters():
        parameters += parameter.numel()
        bits += matrix_bits(quantized[name]) if name in quantized else 32 * parameter.numel()
    return round(bits / parameters, 4)
