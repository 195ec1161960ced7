"""What one choice of options did on a set of questions, and whether it loses against the bundle's own.

It knows nothing of the optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dgemma.benchmarks.eval.figures import Row
from dgemma.core.metrics import paired_score_bounds, ratio_of_sums

Z95_ONE_SIDED = 1.6448536269514722  # one-sided 95 % quantile of the normal distribution
FORWARDS, SPEED = "forwards", "tokens-per-second"
OBJECTIVES = (FORWARDS, SPEED)


def fewest(margin: float) -> int:
    """Paired questions with which the bound can be within the margin: where no answer changes, it is z² / (n + z²)."""
    return math.ceil(Z95_ONE_SIDED**2 * (1 / margin - 1))


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of some questions, in their order: which answers were right, and what each took."""

    right: Sequence[bool]
    position_forwards: Sequence[int]
    tokens: Sequence[int]
    seconds: Sequence[float]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Score:
        rows = list(rows)
        return cls(
            right=[row.right for row in rows],
            position_forwards=[row.position_forwards for row in rows],
            tokens=[row.tokens for row in rows],
            seconds=[row.seconds for row in rows],
        )

    def first(self, count: int) -> Score:
        """Of the first questions alone."""
        return Score(**{name: values[:count] for name, values in vars(self).items()})

    def cost(self, objective: str) -> float:
        """What is to be least: position-forwards a question, or seconds a token."""
        if objective == FORWARDS:
            return sum(self.position_forwards) / len(self.position_forwards)
        return sum(self.seconds) / max(1, sum(self.tokens))

    def difference(self, stock: Score) -> tuple[float, float, float]:
        """Share right minus the stock's over the same questions, and bounds of it, each at one-sided 95 %."""
        return paired_score_bounds(self.right, stock.right, Z95_ONE_SIDED)

    def against(self, stock: Score) -> dict[str, Any]:
        """Figures beside the stock's, JSON types; `saved` is the ratio of position-forwards with its 95 % interval."""
        n = len(self.right)
        return {
            "n": n,
            "exact": sum(self.right) / n,
            "stock_exact": sum(stock.right) / n,
            "difference": dict(zip(("value", "low", "high"), self.difference(stock), strict=True)),
            "position_forwards": sum(self.position_forwards) / n,
            "stock_position_forwards": sum(stock.position_forwards) / n,
            "ratio": dict(
                zip(
                    ("value", "low", "high"),
                    ratio_of_sums(self.position_forwards, stock.position_forwards),
                    strict=True,
                )
            ),
            "tokens_per_s": sum(self.tokens) / max(1e-9, sum(self.seconds)),
            "stock_tokens_per_s": sum(stock.tokens) / max(1e-9, sum(stock.seconds)),
        }
