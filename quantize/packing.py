"""Two 4-bit values to a byte, as quantized checkpoints hold them: the first value in the low half."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pack(values: Tensor) -> Tensor:
    """int8 [..., n] of −8 … 7 or 0 … 15 → uint8 [..., ⌈n/2⌉]; an odd last value is followed by 0."""
    pairs = F.pad(values, (0, values.shape[-1] % 2)).unflatten(-1, (-1, 2)).to(torch.uint8)
    return (pairs[..., 0] & 15) | (pairs[..., 1] << 4)


def unpack(packed: Tensor, count: int, *, signed: bool) -> Tensor:
    """Inverse of `pack`: int8 [..., count] of −8 … 7 where signed, else of 0 … 15."""
    halves = torch.stack([packed & 15, packed >> 4], -1).flatten(-2).view(torch.int8)
    if signed:  # in place, for stacks of experts are large
        halves.bitwise_left_shift_(4).bitwise_right_shift_(4)
    return halves[..., :count].contiguous()
