"""The activation rule of every integer product, the same on all engines, so that one set of integers gives one trajectory.

Per token and symmetric, in the arithmetic of XNNPACK's dynamic quantization. Knows nothing of weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-30  # magnitude of a row of zeros
LEAST = 128 / 127  # a row spans −LEAST·a … a: at ±a, XNNPACK's zero point would be −0.5, which rounding takes to 0 or −1


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., in] float32 → integers (−127 … 127, as float32) [..., in] and inverse scale [..., 1]: x ≈ integers / inverse.

    inverse = 255 / (a + LEAST · a), which is 127 / a as XNNPACK rounds it, for a = max |x|; halves round to even.
    """
    largest = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    inverse = torch.full_like(largest, 255.0) / (largest + largest * LEAST)  # number / tensor would be two roundings
    return torch.round(x * inverse).clamp(-128, 127), inverse
