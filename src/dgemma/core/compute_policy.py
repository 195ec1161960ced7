"""How much of a canvas a step computes: positions leave once they are committed early, and a canvas may start narrow and grow.

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

from dgemma.core.errors import Param, UsageError, listed
from dgemma.core.sampler import SamplerConfig

Array = npt.NDArray[Any]
StartWidth = int | Literal["auto"] | None
EARLY_COMMIT = 0.0003  # nats; where a canvas starts narrow and nothing else is asked for
DRAFT_EARLY_COMMIT = 0.3  # nats; where the encoder checks what was committed early
NARROWEST = 16  # `auto` starts a canvas with one of so many parts


@dataclass(frozen=True, kw_only=True)
class ComputePolicy:
    """How much of a canvas is computed.

    Args:
        early_commit: nats; a position whose entropy falls below is committed early: its token stays, and it leaves the forward.
        start_width: positions of the first step, at most N; None: all of them. After a step without a stop token there are
            twice as many. `auto`: a sixteenth of the canvas.
        recheck: run all positions once more before the canvas is committed, and go on where they change.
        speculate: what the canvas says is a draft: the causal encoder reads it in one forward, and what it would have said
            itself, token by token, stays. The text is that of greedy autoregressive decoding.
    Raises:
        UsageError.
    """

    early_commit: float
    start_width: StartWidth = None
    recheck: bool = False
    speculate: bool = False

    def __post_init__(self) -> None:
        nats, width = self.early_commit, self.start_width
        if isinstance(nats, bool) or not isinstance(nats, (int, float)) or not 0 < nats < math.inf:
            raise UsageError(Param("early_commit"), f" {nats!r} must be a positive number of nats")
        number = isinstance(width, int) and not isinstance(width, bool) and width >= 1
        if width is not None and width != "auto" and not number:
            raise UsageError(Param("start_width"), f" {width!r} must be auto, or a number of positions, 1 or more")

    @classmethod
    def of(
        cls,
        *,
        early_commit: float | None = None,
        start_width: StartWidth = None,
        recheck: bool = False,
        speculate: bool = False,
    ) -> ComputePolicy | None:
        """From what a user asks for; None where that is the stock loop. Raises UsageError."""
        if early_commit is None and start_width is None and not speculate:
            if recheck:
                others = listed(("early_commit", "start_width"), " or ")
                raise UsageError(Param("recheck"), " runs positions that were committed early; give ", *others, " as well")
            return None
        if early_commit is None:
            early_commit = DRAFT_EARLY_COMMIT if speculate else EARLY_COMMIT
        return cls(early_commit=early_commit, start_width=start_width, recheck=recheck, speculate=speculate)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what was asked for, as far as it can be told: a value that another option brings along is not."""
        brought = DRAFT_EARLY_COMMIT if self.speculate else EARLY_COMMIT if self.start_width is not None else None
        asked = {
            "early_commit": self.early_commit != brought,
            "start_width": self.start_width is not None,
            "recheck": self.recheck,
            "speculate": self.speculate,
        }
        return tuple(name for name, is_asked in asked.items() if is_asked)

    def first_width(self, n: int) -> int:
        """Positions of the first step of a canvas of n."""
        return max(1, n // NARROWEST) if self.start_width == "auto" else min(self.start_width or n, n)


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
    """One canvas on its way. `argmax` int64, `entropy` float32, `accepted` and `committed` bool, all [N]: of a position's last
    step; `width`: how many positions the canvas has so far.

    A canvas is closed when it has all its positions, or a stop token among the likeliest ids. It is done when it is closed and
    all its positions are committed, or the adaptive stop's rule holds for them. What follows a committed stop token leaves at
    once.
    """

    def __init__(self, n: int, compute: ComputePolicy, sampler: SamplerConfig, stops: Collection[int]) -> None:
        self.compute, self._n, self._stops = compute, n, np.array(sorted(stops), np.int64)
        self.width = compute.first_width(n)
        self.argmax, self.entropy = np.zeros(n, np.int64), np.zeros(n, np.float32)
        self.accepted, self.committed = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self._stop = AdaptiveStop(sampler, n)
        self._closed, self._rechecking = True, False

    def begin(self) -> Array:
        """Begin a step: the positions [A] that it computes, in order, at least one."""
        if not self._closed:
            self.width = min(2 * self.width, self._n)
        if self.committed[: self.width].all():  # a recheck, or a fixed number of steps with some left
            self.committed[: self.width] = False
        return np.flatnonzero(~self.committed[: self.width])

    def take(self, rows: Array, argmax: Array, entropy: Array, accepted: Array) -> bool:
        """What a step gave for its rows, [A] each; whether the canvas is done."""
        self.argmax[rows], self.entropy[rows], self.accepted[rows] = argmax, entropy, accepted
        self.committed[rows] = entropy < self.compute.early_commit
        stops = np.isin(self.argmax[: self.width], self._stops)
        if (ends := np.flatnonzero(stops & self.committed[: self.width])).size:
            self.committed[ends[0] + 1 : self.width] = True
            self.width = int(ends[0]) + 1
        self._closed = self.width == self._n or bool(stops.any())
        still = self._stop(self.argmax[: self.width], self.entropy[: self.width])
        done = self._closed and (still or bool(self.committed[: self.width].all()))
        self._rechecking = done and self.compute.recheck and not self._rechecking
        if self._rechecking:
            self.committed[: self.width] = True
        return done and not self._rechecking
