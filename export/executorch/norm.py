"""RMSNorm as one operator, which XNNPACK takes; torch's, with a mean over one dimension, would stay on the CPU kernels."""

from __future__ import annotations

from torch import Tensor, nn

from dgemma.export.executorch import ops
from dgemma.model.denoiser import RMSNorm


class WholeRMSNorm(nn.Module):
    """Same function as `RMSNorm` in float32, up to the order of one sum."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.eps, self.weight = norm.eps, norm.weight

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] float32."""
        return ops.rms_norm(x, self.weight, self.eps)
