"""The few statistics that results are reported with. Standard library only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, JASA 22, 1927); (0, 1) for n = 0. Raises ValueError outside 0 … n."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes=} must lie between 0 and {n=}")
    if n == 0:
        return 0.0, 1.0
    p, square = successes / n, z * z
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(a: Sequence[bool], b: Sequence[bool], z: float = Z95) -> tuple[float, float, float]:
    """Share of a minus share of b over the same items, and its normal interval from the pairs that differ."""
    n = len(a)
    if n != len(b) or n == 0:
        raise ValueError("paired samples must have one equal, positive length")
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    difference = (only_a - only_b) / n
    half = z * math.sqrt(max(only_a + only_b - (only_a - only_b) ** 2 / n, 0.0)) / n
    return difference, difference - half, difference + half


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """Median and quartiles of n measurements, in their unit."""

    q1: float
    median: float
    q3: float
    n: int


def quartiles(values: Sequence[float]) -> Quartiles:
    """Inclusive quartiles; one value is all three. Raises ValueError for none."""
    if not values:
        raise ValueError("no measurements")
    if len(values) == 1:
        return Quartiles(q1=values[0], median=values[0], q3=values[0], n=1)
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(q1=q1, median=median, q3=q3, n=len(values))
