"""A quantized matrix: integers and two-level scales, the one form that every engine's lowering starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class QuantizedMatrix:
    """weight[o, i] ≈ integers[o, i] · multipliers[o, i // group] · scale[o]; two-level scales (QServe, arXiv 2405.04532).

    Args:
        bits: 4 or 8.
        integers: int8 [..., out, in]; −127 … 127 for 8 bits, −8 … 7 for 4.
        scale: float32 [..., out].
        multipliers: int8 [..., out, in/group] of 1 … 15; None for 8 bits.
        rotation: block size of an orthonormal Hadamard matrix that the product's inputs are rotated by.
    """

    bits: int
    integers: Tensor
    scale: Tensor
    multipliers: Tensor | None = None
    rotation: int | None = None

    @property
    def group(self) -> int | None:
        return None if self.multipliers is None else self.integers.shape[-1] // self.multipliers.shape[-1]

    def expanded(self) -> Tensor:
        """int8 [..., out, in]: integers times multipliers, exact; what an int8 kernel multiplies."""
        if self.multipliers is None:
            return self.integers
        grouped = self.integers.unflatten(-1, (self.multipliers.shape[-1], -1))
        return (grouped * self.multipliers[..., None]).flatten(-2)

    def dequantize(self) -> Tensor:
        """float32 [..., out, in], of the rotated weight where there is a rotation."""
        return self.expanded().to(torch.float32) * self.scale[..., None]
