"""The cost of a canvas while the prefix grows: denoising steps, autoregressive tokens and encoding, side by side.

Graphs are run as a session runs them, by the session's own parts, but always with all steps and no stop token: what a model
says does not matter, so bundles with random weights can be measured. N canvas, S prefix.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import median
from typing import Any

from dgemma.benchmarks.bench.budget import Budget, Clock
from dgemma.benchmarks.stats import quartiles
from dgemma.runtime.engines.base import Engine
from dgemma.runtime.loops import Loops
from dgemma.runtime.prefix import Prefix, decode_feeds

STEPS, TOKENS = 4, 8  # of a round: enough of each that the first, which makes noise or feeds, does not weigh
PACE = 0.03  # how long a product is timed before and after steps, in shares of their time
Pace = Callable[[float], Mapping[str, float]]


@dataclass(frozen=True)
class Turn:
    """The median step of a round, in seconds, and the rates of products in operations per second, before and after it."""

    step: float
    rates: Mapping[str, float]


@dataclass
class PrefixPoint:
    """Seconds at one prefix length: of single steps, of single decode calls, and of encoding `encoded` tokens up to it."""

    prefix: int
    encoded: int
    encode_s: float
    steps: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Milliseconds; the first of several measurements was a warm-up."""
        steps, tokens = ([1e3 * s for s in values[1:] or values] for values in (self.steps, self.tokens))
        return {
            "prefix": self.prefix,
            "encoded": self.encoded,
            "encode_ms": 1e3 * self.encode_s,
            "step_ms": asdict(quartiles(steps)),
            "token_ms": asdict(quartiles(tokens)),
        }


class PrefixSweep:
    """Measures points of growing prefix on one engine."""

    def __init__(self, engine: Engine, pace: Pace = lambda _: {}) -> None:
        """`pace` gives rates of products, measured for about so many seconds each: a step is judged by its own minute."""
        self._pace = pace
        self._engine, self._prefix, self._loops = engine, Prefix(engine), Loops(engine)
        self._other = Prefix(engine)  # is filled again and again
        self._manifest = engine.bundle.manifest
        engine.prepare("encode", "denoise", "decode")

    def measure(self, lengths: Sequence[int], ids: Sequence[int], budget: Budget) -> tuple[list[float], list[PrefixPoint]]:
        """Seconds of encoding the first length's tokens into an empty prefix, and a point for each length.

        All of them take turns, again and again, so that a busy minute slows every one.

        Args:
            lengths: ascending prefix lengths.
            ids: what the prefix is made of, as many as the last length.
        """
        points: list[PrefixPoint] = []
        for length in lengths:
            grown = length - len(self._prefix.ids)
            self._prefix.extend(ids[length - grown : length])
            points.append(PrefixPoint(length, grown, _encode(self._prefix)))
        clock, prefills = budget.start(), [points[0].encode_s]
        for number in clock.rounds():
            for point in points:
                if clock.is_over and point.steps:
                    break
                self._prefix.encoded = point.prefix  # keys and values beyond stay where they are
                self._turn(point, number, clock)
                point.tokens += self._tokens(point.prefix, clock)
            if number and clock.is_over:
                break
            self._other.truncate(0)
            self._other.extend(ids[: lengths[0]])
            prefills.append(_encode(self._other))
        return prefills[1:], points

    def _turn(self, point: PrefixPoint, canvas: int, clock: Clock) -> None:
        seconds = PACE * sum(point.steps[-STEPS:])
        before = self._pace(seconds)
        steps = self._steps(canvas, clock)
        after = self._pace(seconds)
        point.steps += steps
        point.turns.append(Turn(median(steps), {name: (rate + after[name]) / 2 for name, rate in before.items()}))

    def _steps(self, canvas: int, clock: Clock) -> list[float]:
        """Seconds of a canvas's first steps, fewer when the time is over; the first includes its noise."""
        found: list[float] = []
        started = time.perf_counter()
        for _ in islice(self._loops.host(self._prefix, 0, canvas, False), STEPS):
            now = time.perf_counter()
            found.append(now - started)
            started = now
            if clock.is_over:
                break
        return found

    def _tokens(self, prefix: int, clock: Clock) -> list[float]:
        """Seconds of decoding the token after the prefix, several times; nothing is kept, so that the prefix stays."""
        # The prefix's last token is decoded again, in its place.
        feeds, found = decode_feeds(self._engine, self._prefix, self._prefix.ids[prefix - 1], prefix - 1), []
        for _ in range(TOKENS):
            started = time.perf_counter()
            self._engine.run("decode", feeds)
            found.append(time.perf_counter() - started)
            if clock.is_over and len(found) > 1:
                break
        return found


def _encode(prefix: Prefix) -> float:
    """Seconds of encoding what a prefix lacks."""
    started = time.perf_counter()
    prefix.encode(lambda: False)
    return time.perf_counter() - started
