"""Attention as XNNPACK can take it whole, over prefix and chunk lengths that are open.

With it a layer is one delegate; as the model has it, each view of an open length cuts the graph in two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgemma.export.executorch import ops
from dgemma.model.denoiser import KV, Attention


class WholeAttention(nn.Module):
    """Same function as `Attention`, with its submodules: replace its projections and norms before it."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, self.kv_heads = attention.heads, attention.kv_heads
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.q_norm, self.k_norm, self.v_norm = attention.q_norm, attention.k_norm, attention.v_norm
        self.o_proj = attention.o_proj

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, prefix: KV) -> tuple[Tensor, KV]:
        """As `Attention`, with a batch of 1 and a prefix."""
        keys = ops.heads(self.k_proj(x), self.kv_heads)  # [1, M, K, d]
        values = self.v_norm(keys if self.v_proj is None else ops.heads(self.v_proj(x), self.kv_heads))
        keys = ops.rotate(self.k_norm(keys), cos, sin)
        q = ops.rotate(self.q_norm(ops.heads(self.q_proj(x), self.heads)), cos, sin)
        seen = [torch.cat([old, new], 1) for old, new in zip(prefix, (keys, values), strict=True)]
        return self.o_proj(ops.attend(q, seen[0], seen[1], bias)), (keys, values)
