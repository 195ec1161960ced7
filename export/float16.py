"""Keeps norms within float16: by what their inputs are scaled before they are squared, given the largest value seen.

It knows nothing of graphs.
"""

from __future__ import annotations

import math

# A norm's input is scaled so that the largest value seen becomes this: its square, and those of values 16 times as large, stay
# within float16 (65,504), and squares of values 1,000 times smaller above its smallest normal number (6e-5).
NORM_TARGET = 16.0
UNSEEN = 2.0**-8  # what a norm's input is scaled by where no range is known
SMALLEST = 2.0**-24  # of float16: an epsilon below it would be zero there, and a row of zeros divided by zero


def shrink_of(largest: float | None) -> float:
    """A power of two, for a norm whose inputs reach `largest` (None or 0: nothing was seen)."""
    return UNSEEN if not largest else 2.0 ** math.floor(math.log2(NORM_TARGET / largest))
