"""Mixtures of experts in operators that XNNPACK can take as a whole: of each layer, only the choice of experts stays outside.

Letters: M rows, E experts, K of them chosen for a row, W width of one, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dgemma.export.executorch import ops
from dgemma.model.denoiser import Experts, Layer, Router, for_all_experts


class WholeRouter(nn.Module):
    """Same function as `Router`, with its submodules: replace its norm before it."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.top_k, self.root_size = router.top_k, router.root_size
        self.norm, self.proj, self.scale, self.per_expert_scale = (
            router.norm,
            router.proj,
            router.scale,
            router.per_expert_scale,
        )

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [1, M, D] → probabilities of the chosen, and ids [1, M, K]."""
        probabilities = self.proj(self.norm(x) * self.scale * self.root_size).softmax(-1)
        top, ids = probabilities.topk(self.top_k, dim=-1)
        return top, ids

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """x [1, M, D] → weights and ids [1, M, K]."""
        top, ids = self.choose(x)
        return top / ops.sums(top, self.top_k) * self.per_expert_scale[ids], ids


class DenseRouter(WholeRouter):
    """The same for experts that are all computed: weights [1, M, E], zero for those that were not chosen, and no ids."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        experts = len(self.per_expert_scale)
        chosen = for_all_experts(*self.choose(x), experts)
        return (chosen / ops.sums(chosen, experts) * self.per_expert_scale,)


class WideExperts(nn.Module):
    """Same function as `Experts`, up to the order of sums: one gated MLP as wide as all experts together, whose last product
    adds them up."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        gate, up = experts.gate_up_proj.detach().chunk(2, 1)  # [E, W, D]
        down = experts.down_proj.detach().transpose(0, 1)  # [D, E, W]
        self.experts = len(gate)
        for name, stack in (("gate", gate.flatten(0, 1)), ("up", up.flatten(0, 1)), ("down", down.flatten(1))):
            self.register_parameter(f"{name}_proj", nn.Parameter(stack, requires_grad=False))

    gate_proj: Tensor
    up_proj: Tensor
    down_proj: Tensor

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x [1, M, D], weights [1, M, E] → [1, M, D]."""
        hidden = F.gelu(F.linear(x, self.gate_proj), approximate="tanh") * F.linear(x, self.up_proj)
        weighted = ops.heads(hidden, self.experts) * ops.heads(weights, self.experts)  # [1, M, E, W]
        return F.linear(ops.flat(weighted), self.down_proj)


def replace_routing(model: nn.Module) -> None:
    """Replace the routers of every layer, and its experts where they are float, in place."""
    for module in model.modules():
        if isinstance(module, Layer) and module.is_moe:
            layer: Any = module
            if isinstance(layer.experts, Experts):
                layer.router, layer.experts = DenseRouter(layer.router), WideExperts(layer.experts)
            else:
                layer.router = WholeRouter(layer.router)
