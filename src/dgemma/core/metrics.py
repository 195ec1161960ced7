"""The statistics that results and verdicts are reported with: proportions, paired differences, ratios of sums.

Standard library and numpy; nothing here knows what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

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


def _pairs(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int, int]:
    """How many pairs there are, and in how many only a or only b is true; raises ValueError."""
    n = len(a)
    if n != len(b) or n == 0:
        raise ValueError("paired samples must have one equal, positive length")
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    return n, only_a, only_b


def paired_difference(a: Sequence[bool], b: Sequence[bool], z: float = Z95) -> tuple[float, float, float]:
    """Share of a minus share of b over the same items, and its normal interval from the pairs that differ."""
    n, only_a, only_b = _pairs(a, b)
    difference = (only_a - only_b) / n
    half = z * math.sqrt(max(only_a + only_b - (only_a - only_b) ** 2 / n, 0.0)) / n
    return difference, difference - half, difference + half


def paired_score_bounds(a: Sequence[bool], b: Sequence[bool], z: float) -> tuple[float, float, float]:
    """Share of a minus share of b over the same items, and its score interval at ±z.

    Tango, Statistics in Medicine 17 (1998), 891-908. Unlike the normal interval, it does not shrink to nothing where no pair
    differs: there it is ±z² / (n + z²).

    Raises:
        ValueError: lengths differ or are 0.
    """
    n, only_a, only_b = _pairs(a, b)

    def score(delta: float) -> float:
        """The statistic of the hypothesis that the difference is delta; falls with delta."""
        linear = (2 * n - only_a + only_b) * delta - only_a - only_b
        root = math.sqrt(max(linear * linear + 8 * n * only_b * delta * (1 - delta), 0.0))
        variance = n * ((root - linear) / (2 * n) + delta * (1 - delta))
        distance = only_a - only_b - n * delta
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0

    def solve(low: float, high: float, target: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > target else (low, middle)
        return (low + high) / 2

    difference = (only_a - only_b) / n
    return difference, solve(-1.0, difference, z), solve(difference, 1.0, -z)


def ratio_of_sums(
    a: Sequence[float], b: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """sum(a) / sum(b) over the same items, and its 95 % percentile interval from a bootstrap over items.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3; the same seed gives the same interval.

    Raises:
        ValueError: lengths differ or are 0, or a value of b is not positive.
    """
    n = len(a)
    if n != len(b) or n == 0 or min(b) <= 0:
        raise ValueError("a ratio of sums needs one equal, positive length and positive values below the line")
    over, under = np.asarray(a, np.float64), np.asarray(b, np.float64)
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    low, high = np.quantile(over[draws].sum(1) / under[draws].sum(1), (0.025, 0.975))
    return float(over.sum() / under.sum()), float(low), float(high)
