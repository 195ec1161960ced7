"""Made-up activations and quantized matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from dgemma.quantize.matrix import QuantizedMatrix


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def four_bits(*shape: int, group: int, rotation: int | None = None, seed: int = 0) -> QuantizedMatrix:
    """A made-up matrix of the agreed form: scales of at most 4 significant bits, multipliers of 1 … 15."""
    generator = torch.Generator().manual_seed(seed)
    *stack, columns = shape
    return QuantizedMatrix(
        bits=4,
        integers=torch.randint(-8, 8, shape, generator=generator, dtype=torch.int8),
        scale=torch.randint(8, 16, stack, generator=generator) * 2.0**-9,
        multipliers=torch.randint(1, 16, (*stack, columns // group), generator=generator, dtype=torch.int8),
        rotation=rotation,
    )
