"""The few statistics that results are reported with; those that verify needs as well are in core."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dgemma.core.metrics import paired_difference, wilson

__all__ = ["Quartiles", "paired_difference", "quartiles", "wilson"]


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """Least, median and quartiles of n measurements, in their unit."""

    least: float
    q1: float
    median: float
    q3: float
    n: int


def quartiles(values: Sequence[float]) -> Quartiles:
    """Inclusive quartiles; one value is all three. Raises ValueError for none."""
    if not values:
        raise ValueError("no measurements")
    if len(values) == 1:
        return Quartiles(least=values[0], q1=values[0], median=values[0], q3=values[0], n=1)
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(least=min(values), q1=q1, median=median, q3=q3, n=len(values))
