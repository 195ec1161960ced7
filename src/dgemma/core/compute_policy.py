"""Which positions of a canvas run in a step: they leave once they have settled, and a canvas may start narrow and grow.

It knows nothing of models and engines: it is told what a step gave, and says what the next one computes. The reference has the
same rule once more, for one shape (`reference/active.py`). N canvas, A active positions.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dgemma.core.errors import UsageError
from dgemma.core.sampler import SamplerConfig

Array = npt.NDArray[Any]
SETTLE = 0.0003  # nats; where a canvas starts narrow and nothing else is asked for
DRAFT_SETTLE = 0.3  # nats; where the encoder checks what has settled
NARROWEST = 16  # a canvas starts with one of so many parts where nothing else is asked for


@dataclass(frozen=True, kw_only=True)
class ComputePolicy:
    """How much of a canvas is computed.

    Args:
        settle: nats; a position whose entropy falls below leaves the forward, and its token stays.
        start: positions of the first step, N at most. After a step without a stop token there are twice as many. `auto`: a
            sixteenth of the canvas.
        repair: run all positions once more before the canvas is committed, and go on where they change.
        speculate: what the canvas says is a draft: the causal encoder reads it in one pass, and what it would have said itself,
            token by token, stays. The text is that of greedy autoregressive decoding.
    Raises:
        UsageError.
    """

    settle: float
    start: int | Literal["auto"] | None = None
    repair: bool = False
    speculate: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.settle, bool) or not isinstance(self.settle, (int, float)) or not 0 < self.settle < math.inf:
            raise UsageError(f"settle {self.settle!r} must be a positive number of nats")
        number = isinstance(self.start, int) and not isinstance(self.start, bool) and self.start >= 1
        if self.start is not None and self.start != "auto" and not number:
            raise UsageError(f"canvas {self.start!r} must be auto, or a number of positions, 1 or more")

    @classmethod
    def of(
        cls, *, settle: float | None = None, canvas: int | Literal["auto"] | None = None, repair: bool = False,
        speculate: bool = False,
    ) -> ComputePolicy | None:  # fmt: skip
        """From what a user asks for; None where that is the stock loop. Raises UsageError."""
        if settle is None and canvas is None and not speculate:
            if repair:
                raise UsageError("repair runs settled positions again; give settle or canvas as well")
            return None
        if settle is None:
            settle = DRAFT_SETTLE if speculate else SETTLE
        return cls(settle=settle, start=canvas, repair=repair, speculate=speculate)

    def arguments(self) -> dict[str, Any]:
        """What `Session.generate` is called with for it."""
        return {"settle": self.settle, "canvas": self.start, "repair": self.repair, "speculate": self.speculate}

    def first_width(self, n: int) -> int:
        """Positions of the first step of a canvas of n."""
        return max(1, n // NARROWEST) if self.start == "auto" else min(self.start or n, n)


class AdaptiveStop:
    """The sampler's stop of one canvas of n positions: the argmax has not changed for `stability_threshold` steps, and the mean
    entropy is low. Positions that a canvas does not have are certain."""

    def __init__(self, sampler: SamplerConfig, n: int) -> None:
        self._sampler, self._n = sampler, n
        self._stable, self._last = 0, b""

    def __call__(self, argmax: Array, entropy: Array) -> bool:
        """What a step gave for the positions that there are, [N] at most; whether to end."""
        current = argmax.tobytes()  # far cheaper to compare than arrays
        self._stable, self._last = self._stable + 1 if current == self._last else 0, current
        mean = entropy.sum(dtype=np.float64) / self._n
        return self._stable >= self._sampler.stability_threshold and bool(mean < self._sampler.confidence_threshold)


class ActiveSet:
    """One canvas on its way. `argmax` int64, `entropy` float32, `accepted` and `settled` bool, all [N]: of a position's last
    step; `width`: how many positions the canvas has so far.

    A canvas is closed when it has all its positions, or a stop token among the likeliest ids. It is done when it is closed and
    all its positions have settled, or the adaptive stop's rule holds for them. What follows a stop token that has settled
    leaves at once.
    """

    def __init__(self, n: int, compute: ComputePolicy, sampler: SamplerConfig, stops: Collection[int]) -> None:
        self.compute, self._n, self._stops = compute, n, np.array(sorted(stops), np.int64)
        self.width = compute.first_width(n)
        self.argmax, self.entropy = np.zeros(n, np.int64), np.zeros(n, np.float32)
        self.accepted, self.settled = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self._stop = AdaptiveStop(sampler, n)
        self._closed, self._repairing = True, False

    def begin(self) -> Array:
        """Begin a step: the positions [A] that it computes, in order, at least one."""
        if not self._closed:
            self.width = min(2 * self.width, self._n)
        if self.settled[: self.width].all():  # a repair, or a fixed number of steps with some left
            self.settled[: self.width] = False
        return np.flatnonzero(~self.settled[: self.width])

    def take(self, rows: Array, argmax: Array, entropy: Array, accepted: Array) -> bool:
        """What a step gave for its rows, [A] each; whether the canvas is done."""
        self.argmax[rows], self.entropy[rows], self.accepted[rows] = argmax, entropy, accepted
        self.settled[rows] = entropy < self.compute.settle
        stops = np.isin(self.argmax[: self.width], self._stops)
        if (ends := np.flatnonzero(stops & self.settled[: self.width])).size:
            self.settled[ends[0] + 1 : self.width] = True
            self.width = int(ends[0]) + 1
        self._closed = self.width == self._n or bool(stops.any())
        still = self._stop(self.argmax[: self.width], self.entropy[: self.width])
        done = self._closed and (still or bool(self.settled[: self.width].all()))
        self._repairing = done and self.compute.repair and not self._repairing
        if self._repairing:
            self.settled[: self.width] = True
        return done and not self._repairing
