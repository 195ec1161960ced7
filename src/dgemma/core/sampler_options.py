"""How one generation samples: what a caller may say in place of the sampler that a bundle was exported with.

It knows nothing of bundles: whether a graph takes what is asked for is the runtime's to check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from dgemma.core.errors import Param, UsageError
from dgemma.core.plural import counted
from dgemma.core.sampler import SamplerConfig
from dgemma.core.scalars import is_int, is_number
from dgemma.core.schedule import (
    HOTTEST,
    LINEAR,
    Ends,
    Schedule,
    ScheduleTable,
    between,
    is_positive,
    is_temperature,
    read_ends,
    read_schedule,
)

GREEDY = 1e-20  # the temperature that stands for 0: the likeliest id outweighs any other, and no logit over it overflows
COLDEST = 0.01  # below it is 0: heads multiply the logits that a draw falls among once more, and a last bit would decide
BANNED = -math.inf
IN_GRAPH = ("temperature", "max_steps", "entropy_bound", "schedule", "confidence", "stability")  # what `generate` takes
LARGEST_BIAS = 1e100  # over the lowest temperature it is still a number
Temperature = float | tuple[float, float] | str | None
EntropyBound = Temperature
LogitBias = Mapping[int, float] | Sequence[tuple[int, float]] | None


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """What differs from the bundle's sampler; None: as it was exported.

    Args:
        temperature: of the first step, and what the schedule tends to after the last, (a, b) or "a:b"; a number is both. With r
            of T steps remaining it is b + (a − b) · s(r / T). 0 is the limit, the likeliest id; below 0.01 is 0.
        max_steps: T, denoising steps for one canvas at most; no more than the bundle was exported with.
        entropy_bound: nats; as much entropy as the accepted positions have ahead of the last of them, at most. A number, or
            both ends as for the temperature.
        schedule: s, `linear` (s(x) = x; the default) or `cosine` ((1 − cos πx) / 2); or a table of every step's temperature,
            entropy_bound or both, first step first, which has T steps.
        confidence: nats; the mean entropy must be below it for a stop.
        stability: steps for which the argmax canvas must not change before a stop.
        top_k: draw only among so many of the likeliest ids, at most as many as a step of the bundle puts out.
        top_p: draw only among the likeliest ids that together have this probability, above 0 and at most 1.
        min_p: draw only among ids that are at least this many times as likely as the likeliest, above 0 and at most 1.
        logit_bias: id → what is added to its logit, at most 1e100 either way, or −inf, which bans the id. A step gives the
            likeliest ids alone, and so no other can be lifted. It becomes pairs in order of ids.
    Raises:
        UsageError.
    """

    temperature: Temperature = None
    max_steps: int | None = None
    entropy_bound: EntropyBound = None
    schedule: Schedule = None
    confidence: float | None = None
    stability: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    logit_bias: LogitBias = None

    def __post_init__(self) -> None:
        warm = f"A or A:B, numbers from 0 to {HOTTEST:g}, such as 0.8:0.4"
        object.__setattr__(self, "temperature", read_ends("temperature", self.temperature, is_temperature, warm))
        nats = "a positive number of nats, or A:B"
        object.__setattr__(self, "entropy_bound", read_ends("entropy_bound", self.entropy_bound, is_positive, nats))
        object.__setattr__(self, "schedule", read_schedule(self.schedule))
        for name, low in (("max_steps", 1), ("stability", 0), ("top_k", 1)):
            if (value := getattr(self, name)) is None:
                continue
            if not is_int(value, low):
                raise UsageError(Param(name), f" {value!r} must be an integer, {low} or more")
            object.__setattr__(self, name, int(value))  # NumPy's too
        share = (1, "a number above 0 and at most 1")
        for name, (most, kind) in (("confidence", (math.inf, "a positive number of nats")), ("top_p", share), ("min_p", share)):
            if (value := getattr(self, name)) is None:
                continue
            if not is_number(value, 0, most):
                raise UsageError(Param(name), f" {value!r} must be {kind}")
            object.__setattr__(self, name, float(value))
        object.__setattr__(self, "logit_bias", read_bias(self.logit_bias))
        self._check_table()

    def _check_table(self) -> None:
        """Whether a table says nothing that other options say as well; raises UsageError."""
        if (table := self.table) is None:
            return
        if twice := [name for name in ("temperature", "entropy_bound") if getattr(table, name) and getattr(self, name)]:
            raise UsageError(Param(twice[0]), " is also in the table of ", Param("schedule"), "; leave one out")
        if self.max_steps not in (None, table.steps):
            has = f", whose table has {counted(table.steps, 'step')}; leave one out"
            raise UsageError(Param("max_steps"), f" {self.max_steps} differs from ", Param("schedule"), has)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what is not as it was exported."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def table(self) -> ScheduleTable | None:
        """Of the schedule, where it is one."""
        return self.schedule if isinstance(self.schedule, ScheduleTable) else None

    @property
    def bias(self) -> tuple[tuple[int, float], ...]:
        """Ids and what is added to their logits, in order of ids."""
        return tuple(self.logit_bias or ())  # type: ignore[arg-type]  # pairs by now

    def needs_candidates(self, config: SamplerConfig) -> tuple[str, ...]:
        """Names of what no step can do without its draws and likeliest ids."""
        wider = max(self.bounds(config)) > config.entropy_bound
        source = "entropy_bound" if self.entropy_bound is not None else "schedule"
        names = ("top_k", "top_p", "min_p", "logit_bias")
        return tuple(name for name in names if getattr(self, name) is not None) + ((source,) if wider else ())

    def applied(self, config: SamplerConfig) -> SamplerConfig:
        """The bundle's sampler with the steps and the stop rule that are said here. Raises UsageError."""
        said = self.max_steps if self.table is None else self.table.steps
        if said is not None and said > config.steps:
            name = "max_steps" if self.table is None else "schedule"
            has = f" {said}" if self.table is None else f" has {said} steps and"
            raise UsageError(Param(name), f"{has} must be at most the exported {config.steps}; export with more steps")
        return replace(
            config,
            steps=config.steps if said is None else said,
            stability_threshold=config.stability_threshold if self.stability is None else self.stability,
            confidence_threshold=config.confidence_threshold if self.confidence is None else self.confidence,
        )

    def temperatures(self, config: SamplerConfig) -> list[float]:
        """Of every step of one canvas, first step first. Raises UsageError."""
        applied = self.applied(config)
        if self.temperature is None and self.schedule in (None, LINEAR):
            return [applied.temperature(left) for left in range(applied.steps, 0, -1)]
        exact = self._of_steps("temperature", (config.t_max, config.t_min), applied.steps)
        return [GREEDY if one < COLDEST else one for one in exact]

    def bounds(self, config: SamplerConfig) -> list[float]:
        """The entropy bound, in nats, of every step of one canvas, first step first. Raises UsageError."""
        return self._of_steps("entropy_bound", (config.entropy_bound, config.entropy_bound), self.applied(config).steps)

    def _of_steps(self, name: str, exported: Ends, steps: int) -> list[float]:
        if self.table is not None and (values := getattr(self.table, name)):
            return list(values)
        own = getattr(self, name)
        return between(exported if own is None else own, self.schedule if isinstance(self.schedule, str) else LINEAR, steps)


def read_bias(value: LogitBias) -> tuple[tuple[int, float], ...] | None:
    """Pairs in order of ids, without those that add nothing; None for none. Raises UsageError."""
    if value is None:
        return None
    try:
        given = list(value.items() if isinstance(value, Mapping) else value)
        pairs = dict(given)
    except (TypeError, ValueError):
        raise UsageError(Param("logit_bias"), f" {str(value)[:60]} must be ids with numbers, such as {{17: -5.0}}") from None
    if len(pairs) < len(given):
        raise UsageError(Param("logit_bias"), " has an id twice; give one number for it")
    for i, bias in pairs.items():
        if not is_int(i, 0):
            raise UsageError(Param("logit_bias"), f": id {i!r} must be an integer, 0 or more")
        if bias != BANNED and not (is_number(bias, -math.inf, LARGEST_BIAS) and bias >= -LARGEST_BIAS):
            within = f" of id {i}: {str(bias)[:40]} must be a number from {-LARGEST_BIAS:g} to {LARGEST_BIAS:g}, or -inf"
            raise UsageError(Param("logit_bias"), within)
    return tuple((int(i), float(pairs[i])) for i in sorted(pairs) if pairs[i] != 0) or None
