"""How much longer an export will take: the plan, scaled by the machine's pace and by how long the finished stages took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from dgemma.export.stages import Reached, Stage

_PROBE_SECONDS = 0.0055  # one pass of the probe on the processor for which the plan was fitted
_PRIOR = 0.3  # weight of the probe's pace against the pace seen so far, as a share of the plan
_HELD = 1.2  # up to this factor, the last figure is repeated instead of a higher one
_OWN = 0.8  # below this share of a core for its own process, others keep the machine busy
_MARGIN = 1.1  # an estimate that is too short annoys more than one that is a little long


def pace() -> float:
    """How many times longer than the plan's machine this one takes for a little Python work, as busy as it is now."""
    begun = time.perf_counter()
    for _ in range(10):
        kept: dict[int, str] = {}
        for i in range(20_000):
            kept[i % 97] = (str(i), kept.get(i % 89))[0]
    return (time.perf_counter() - begun) / (10 * _PROBE_SECONDS)


class Countdown:
    """Adds to each stage's name how long the rest will take.

    The time left never rises while the export has a core to itself. If it would have to rise by much, the line says "longer
    than planned" instead. Where other programs use the machine, it says what is left at the pace so far, which may rise.

    Args:
        plan: stages in order, with their planned seconds.
        say: takes each line.
        clock: seconds, monotonic.
        worked: processor seconds of this process; by them and the clock, the share of a core that it gets is known.
        at_once: the engines are lowered at the same time.
        pace: of this machine, from `pace()`; corrected as stages finish.
        last: planned seconds of what follows the plan.
    """

    def __init__(
        self,
        plan: Sequence[Stage],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.process_time,
        *,
        at_once: bool = False,
        pace: float = 1.0,
        last: float = 0.0,
    ) -> None:
        self._say, self._clock, self._worked, self._pace, self._last = say, clock, worked, pace, last
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
        self._start, self._began = clock(), worked()
        self._shown = math.inf

    def __call__(self, reached: Reached) -> None:
        self.advance(reached)
        done, prior = self.done, _PRIOR * self._total
        pace = (self._clock() - self._start + prior * self._pace) / (done + prior)
        left = _MARGIN * (self._total - done) * pace
        if left > _HELD * self._shown:
            if not self.busy:
                self._say(f"{reached}, longer than planned")
                return
            self._shown = left
        self._shown = min(self._shown, left)
        self._say(f"{reached}, about {spoken(self._shown)} left" if self._shown >= 1 else str(reached))

    def advance(self, reached: Reached) -> None:
        """Note which stage was reached; a stage that is not in the plan comes after all that are."""
        if reached.stage not in self._stages:
            self._passed = dict(self._ends)
            return
        lane, before, own = self._stages[reached.stage]
        self._passed = {name: max(passed, min(before, self._first)) for name, passed in self._passed.items()}
        self._passed[lane] = before + reached.share * own

    @property
    def busy(self) -> bool:
        """Whether other programs use the machine."""
        return self._worked() - self._began < _OWN * (self._clock() - self._start)

    @property
    def done(self) -> float:
        """Seconds of the plan that have passed, for the engine with the most left to do."""
        return self._total - self._last - max(self._ends[name] - passed for name, passed in self._passed.items())


def spoken(seconds: float) -> str:
    """For people: seconds below a minute and a half, minutes above."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
