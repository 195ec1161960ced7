"""What counts as an integer or a number where a caller gives one: Python's and NumPy's, never a bool."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard


def is_int(value: object, low: int | None = None, high: int | None = None) -> TypeGuard[int]:
    """Whether a value is an integer from low to high."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, Integral)):  # the abstract class is slow
        return False
    number = int(value)
    return (low is None or number >= low) and (high is None or number <= high)


def is_number(value: object, above: float, to: float) -> TypeGuard[float]:
    """Whether a value is a number above one and at most another, not infinite, nor beyond float64."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        number = float(value)
    except OverflowError:
        return False
    return math.isfinite(number) and above < number <= to
