"""RMSNorm as XNNPACK can take it: the mean as a product, since a single-axis mean would stay on the CPU kernels.

With it a whole layer is one delegate; without it every norm cuts the graph in two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgemma.model.denoiser import RMSNorm


class ProductRMSNorm(nn.Module):
    """Same function as `RMSNorm` for a known width, up to the order of one sum."""

    def __init__(self, norm: RMSNorm, dim: int) -> None:
        super().__init__()
        self.eps, self.weight = norm.eps, norm.weight
        self.register_buffer("mean", torch.full((1, dim), 1.0 / dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] float32."""
        normed = x * torch.rsqrt(F.linear(x * x, self.mean) + self.eps)  # type: ignore[arg-type]
        return normed if self.weight is None else normed * self.weight


def replace_norms(module: nn.Module, hidden: int) -> None:
    """Replace every RMSNorm below `module`, in place; unscaled ones take their width from their owner."""
    for name, child in module.named_children():
        if isinstance(child, RMSNorm):
            dim = child.weight.shape[0] if child.weight is not None else int(getattr(module, "head_dim", hidden))
            setattr(module, name, ProductRMSNorm(child, dim))
        else:
            replace_norms(child, hidden)
