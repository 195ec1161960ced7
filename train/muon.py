"""Muon in float32 (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/).

torch.optim.Muon does the same in bfloat16, one matrix after another. Processors without bfloat16 products emulate those, which
took longer than the rest of a step of tiny; in float32, and matrices of one shape together, it takes a tenth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonalized(x: Tensor) -> Tensor:
    """Matrices [..., R, C] with their singular values near 1, by quintic Newton–Schulz iterations."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; a matrix of R rows and C columns moves by √max(1, R/C) times the rate."""

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for (rows, columns), matrices in by_shape.items():
                updates = torch.stack([self._update(p, group["momentum"]) for p in matrices])
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for p, update in zip(matrices, orthogonalized(updates), strict=True):
                    p.add_(update, alpha=-rate)

    def _update(self, p: Tensor, momentum: float) -> Tensor:
        """The gradient one step ahead; the momentum is kept in the state."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        kept: Tensor = state["momentum"].mul_(momentum).add_(p.grad)
        return p.grad + momentum * kept
