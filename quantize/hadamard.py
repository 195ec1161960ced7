"""Rotation of a product's inputs by an orthonormal block Hadamard matrix, which spreads outliers over a block.

QuaRot (arXiv 2404.00456) and SpinQuant (2405.16406) use it on the inputs of down projections, where no norm can absorb it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix over √size: orthonormal and symmetric, float32 [size, size]; size is a power of two."""
    assert size > 0 and size & (size - 1) == 0, size
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


def rotate_inputs(weight: Tensor, size: int) -> Tensor:
    """weight [..., out, in] → the same function of rotated inputs: every block of `size` columns times the matrix."""
    return (weight.unflatten(-1, (-1, size)) @ hadamard(size).to(weight)).flatten(-2)
