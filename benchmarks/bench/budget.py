"""How long a measurement goes on: a number of rounds, or until its share of the time is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from dgemma.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """`repeats` rounds of everything, whatever they take; or, without it, as many as fit into `seconds`, one at least."""

    seconds: float
    repeats: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 86_400:
            raise UsageError(f"--seconds {self.seconds} must be more than 0 and at most a day")
        if self.repeats is not None and not 1 <= self.repeats <= 10_000:
            raise UsageError(f"--repeats {self.repeats} must be between 1 and 10,000")

    def share(self, part: float) -> Budget:
        return Budget(seconds=self.seconds * part, repeats=self.repeats)

    def start(self) -> Clock:
        return Clock(self, time.perf_counter())


class Clock:
    """A budget that has begun."""

    def __init__(self, budget: Budget, started: float) -> None:
        self._budget, self._end = budget, started + budget.seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is spent; never when rounds are counted."""
        return self._budget.repeats is None and time.perf_counter() >= self._end

    def rounds(self) -> Iterator[int]:
        """Numbers of rounds, from 0."""
        number = 0
        while number == 0 or (not self.is_over if self._budget.repeats is None else number < self._budget.repeats):
            yield number
            number += 1
