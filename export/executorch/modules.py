"""Replaces modules of the model by equivalent ones whose operators XNNPACK can take as a whole (`ops.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dgemma.export.executorch import ops
from dgemma.model.denoiser import KV, Attention, RMSNorm, attend

M = TypeVar("M", bound=nn.Module)


def replace_modules(module: nn.Module, kind: type[M], make: Callable[[M], nn.Module]) -> None:
    """Replace every `kind` below `module` by what `make` makes of it, in place."""
    for name, child in module.named_children():
        if isinstance(child, kind):
            setattr(module, name, make(child))
        else:
            replace_modules(child, kind, make)


def replace_gelus(program: ExportedProgram) -> ExportedProgram:
    """Make tanh GELUs an operator of our own, in place: XNNPACK would make exact ones of them (`ops.tanh_gelu`)."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.gelu.default:
            assert node.kwargs.get("approximate") == "tanh", node
            node.target, node.kwargs = torch.ops.dgemma.tanh_gelu.default, {}
    program.graph_module.recompile()
    return program


class WholeRMSNorm(nn.Module):
    """Same function as `RMSNorm` in float32, up to the order of one sum, as one operator; torch's, with a mean over one
    dimension, would stay on the CPU kernels."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.eps, self.weight = norm.eps, norm.weight

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] float32."""
        return ops.rms_norm(x, self.weight, self.eps)


def whole_attend(q: Tensor, new: KV, prefix: KV, bias: Tensor) -> Tensor:
    """Same function as the model's `attend`, with a batch of 1, as one operator."""
    keys, values = (torch.cat([old, own], 1) for old, own in zip(prefix, new, strict=True))
    return ops.attend(q, keys, values, bias)


class WholeAttention(nn.Module):
    """Same function as `Attention`, over prefix and chunk lengths that are open, with its submodules: replace its projections
    and norms before it. A layer with it is one delegate; as the model has it, each view of an open length cuts the graph in
    two."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attend = whole_attend if attention.attend is attend else attention.attend
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
        return self.o_proj(self.attend(q, (keys, values), prefix, bias)), (keys, values)
