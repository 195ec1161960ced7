"""Noise levels of training: drawn uniformly, or as often as the loss at a level is high, with weights that undo the bias.

With the loss L(t) of a level and a density p(t), L(t)/p(t) has the mean of uniform levels whatever p is, and the least variance
where p is proportional to L: every draw then contributes the same. (Importance sampling; of diffusion losses: Nichol and
Dhariwal, arXiv 2102.09672, section 3.3; Kingma et al., arXiv 2107.00630, learn a schedule for the same end.)
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 16
_DECAY = 0.99  # of a bin's running mean, for each draw that falls into it
_FLOOR = 0.2  # share of draws that are uniform, so that no level starves and no weight is above 1/_FLOOR


class Levels:
    """Draws t in (0, 1); `mean` [BINS] are the running losses of the bins, NaN before the first."""

    def __init__(self, *, learned: bool) -> None:
        self.learned, self.mean = learned, torch.full((BINS,), torch.nan)

    def density(self) -> Tensor:
        """p(t) of each bin, with mean 1: uniform until every bin has a loss."""
        if not self.learned or self.mean.isnan().any():
            return torch.ones(BINS)
        return _FLOOR + (1 - _FLOOR) * self.mean / self.mean.mean().clamp_min(1e-12)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Levels [count] and the weights [count] of their losses, 1/p."""
        u = torch.rand(count, generator=generator)
        if not self.learned:
            return u, torch.ones(count)
        density = self.density()
        edges = torch.cat([torch.zeros(1), (density / BINS).cumsum(0)])
        bins = (torch.searchsorted(edges, u, right=True) - 1).clamp(0, BINS - 1)
        inside = ((u - edges[bins]) / (edges[bins + 1] - edges[bins])).clamp(0, 1)
        return ((bins + inside) / BINS).clamp(max=1.0), 1 / density[bins]

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Take note of rows' losses [count], unweighted, at their levels t [count]."""
        if not self.learned:
            return
        for bin_, loss in zip((t * BINS).long().clamp(max=BINS - 1).tolist(), losses.tolist(), strict=True):
            old = float(self.mean[bin_])
            self.mean[bin_] = loss if old != old else _DECAY * old + (1 - _DECAY) * loss
