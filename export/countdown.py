"""How long an export still takes: the plan's proportions at the machine's pace, corrected by the stages that have passed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from dgemma.export.stages import Reached, Stage

_PROBE_SECONDS = 0.0055  # of one pass of the probe, on the processor that the plan's seconds are of
_PRIOR = 0.3  # share of the plan for which the probe's pace counts beside the pace that was seen
_HELD = 1.2  # a figure is shown again where the present one exceeds it by no more than this
_MARGIN = 1.1  # a figure that falls short is worse than one that is a little long


def pace() -> float:
    """How much longer this machine takes for a little Python work, right now, than the one that the plan was fitted to."""
    begun = time.perf_counter()
    for _ in range(10):
        kept: dict[int, str] = {}
        for i in range(20_000):
            kept[i % 97] = (str(i), kept.get(i % 89))[0]
    return (time.perf_counter() - begun) / (10 * _PROBE_SECONDS)


class Countdown:
    """Adds to each stage's name how long the rest will take.

    The figure never rises. Where it would have to rise much, the line says so without a figure.

    Args:
        plan: stages in order, with their planned seconds.
        say: takes each line.
        clock: seconds, monotonic.
        at_once: the engines are lowered at the same time.
        pace: of this machine, from `pace()`; the stages that have passed correct it.
        last: planned seconds of what follows the plan.
    """

    def __init__(
        self,
        plan: Sequence[Stage],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        at_once: bool = False,
        pace: float = 1.0,
        last: float = 0.0,
    ) -> None:
        self._say, self._clock, self._pace, self._last = say, clock, pace, last
        self._stages = dict[str, tuple[str, float, float]]()  # stage → its lane, the seconds before it there, and its own
        self._ends = dict[str, float]()  # lane → seconds from the start to its end; engines at once are a lane each
        shared = [stage for stage in plan if stage.engine is None]
        self._first = sum(stage.seconds for stage in shared)
        before = 0.0
        for stage in plan:
            lane = (stage.engine if at_once else None) or ""
            begin = before if stage.engine is None else self._ends.get(lane, self._first)
            self._stages[stage.name] = lane, begin, stage.seconds
            before = self._ends[lane] = begin + stage.seconds
        self._passed = dict.fromkeys(self._ends, 0.0)
        self._total = max(self._ends.values()) + last
        self._start = clock()
        self._shown = math.inf

    def __call__(self, reached: Reached) -> None:
        self.advance(reached)
        done, prior = self.done, _PRIOR * self._total
        pace = (self._clock() - self._start + prior * self._pace) / (done + prior)
        left = _MARGIN * (self._total - done) * pace
        if left > _HELD * self._shown:
            self._say(f"{reached}, longer than planned")
            return
        self._shown = min(self._shown, left)
        self._say(f"{reached}, about {spoken(self._shown)} left" if self._shown >= 1 else str(reached))

    def advance(self, reached: Reached) -> None:
        """Note where an engine is; a stage that is in no plan, as what follows it, ends all of them."""
        if reached.stage not in self._stages:
            self._passed = dict(self._ends)
            return
        lane, before, own = self._stages[reached.stage]
        self._passed = {name: max(passed, min(before, self._first)) for name, passed in self._passed.items()}
        self._passed[lane] = before + reached.share * own

    @property
    def done(self) -> float:
        """Seconds of the plan that have passed, by the engine that has most left to do."""
        return self._total - self._last - max(self._ends[name] - passed for name, passed in self._passed.items())


def spoken(seconds: float) -> str:
    """For people: seconds below a minute and a half, minutes above."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
