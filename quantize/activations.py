"""The activation rule of every integer product, the same on all engines, so that one set of integers gives one trajectory.

Per token and symmetric: XNNPACK's scale for a row whose extremes are ±a. Knows nothing of weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-30  # magnitude of a row of zeros


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., in] float32 → integers (−128 … 127, as float32) [..., in] and inverse scale [..., 1]: x ≈ integers / inverse.

    inverse = 255 / (2 · max |x|); halves round to even, and the largest magnitude saturates at 127.
    """
    largest = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    inverse = torch.full_like(largest, 255.0) / (largest + largest)  # number / tensor would be a reciprocal and a product
    return torch.round(x * inverse).clamp(-128, 127), inverse
