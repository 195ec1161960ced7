"""How one generation samples: what a caller may say in place of the sampler that a bundle was exported with.

It knows nothing of bundles: whether a graph takes what is asked for is the runtime's to check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real

from dgemma.core.errors import Param, UsageError
from dgemma.core.sampler import SamplerConfig, temperature_between
from dgemma.core.scalars import is_int, is_number

GREEDY = 1e-20  # the temperature that stands for 0: the likeliest id outweighs any other, and no logit over it overflows
COLDEST = 0.01  # below it is 0: heads multiply the logits that a draw falls among once more, and a last bit would decide
HOTTEST = 100.0
BANNED = -math.inf
LARGEST_BIAS = 1e100  # over the lowest temperature it is still a number
Ends = tuple[float, float]
Temperature = float | tuple[float, float] | str | None
LogitBias = Mapping[int, float] | Sequence[tuple[int, float]] | None


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """What differs from the bundle's sampler; None: as it was exported.

    Args:
        temperature: of the first step, and what the schedule tends to after the last, (a, b) or "a:b"; a number is both. With r
            of T steps remaining it is b + (a − b) · r / T. 0 is the limit, the likeliest id; below 0.01 is 0.
        max_steps: T, denoising steps for one canvas at most; no more than the bundle was exported with.
        entropy_bound: nats; as much entropy as the accepted positions have ahead of the last of them, at most.
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
    entropy_bound: float | None = None
    confidence: float | None = None
    stability: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    logit_bias: LogitBias = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", read_temperature(self.temperature))
        for name, low in (("max_steps", 1), ("stability", 0), ("top_k", 1)):
            if (value := getattr(self, name)) is None:
                continue
            if not is_int(value, low):
                raise UsageError(Param(name), f" {value!r} must be an integer, {low} or more")
            object.__setattr__(self, name, int(value))  # NumPy's too
        nats, share = (math.inf, "a positive number of nats"), (1, "a number above 0 and at most 1")
        for name, (most, kind) in (("entropy_bound", nats), ("confidence", nats), ("top_p", share), ("min_p", share)):
            if (value := getattr(self, name)) is None:
                continue
            if not is_number(value, 0, most):
                raise UsageError(Param(name), f" {value!r} must be {kind}")
            object.__setattr__(self, name, float(value))
        object.__setattr__(self, "logit_bias", read_bias(self.logit_bias))

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what is not as it was exported."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def bias(self) -> tuple[tuple[int, float], ...]:
        """Ids and what is added to their logits, in order of ids."""
        return tuple(self.logit_bias or ())  # type: ignore[arg-type]  # pairs by now

    def needs_candidates(self, config: SamplerConfig) -> tuple[str, ...]:
        """Names of what no step can do without its draws and likeliest ids."""
        wider = self.entropy_bound is not None and self.entropy_bound > config.entropy_bound
        names = ("top_k", "top_p", "min_p", "logit_bias", *(["entropy_bound"] if wider else []))
        return tuple(name for name in names if getattr(self, name) is not None)

    def applied(self, config: SamplerConfig) -> SamplerConfig:
        """The bundle's sampler with what is said here, but for the temperature and for what cuts draws. Raises UsageError."""
        if self.max_steps is not None and self.max_steps > config.steps:
            most = f" {self.max_steps} must be at most the exported {config.steps}; export with more steps"
            raise UsageError(Param("max_steps"), most)
        return replace(
            config,
            entropy_bound=config.entropy_bound if self.entropy_bound is None else self.entropy_bound,
            steps=config.steps if self.max_steps is None else self.max_steps,
            stability_threshold=config.stability_threshold if self.stability is None else self.stability,
            confidence_threshold=config.confidence_threshold if self.confidence is None else self.confidence,
        )

    def temperatures(self, config: SamplerConfig) -> list[float]:
        """Of every step of one canvas, first step first. Raises UsageError."""
        applied = self.applied(config)
        remaining, ends = range(applied.steps, 0, -1), self.temperature
        if not isinstance(ends, tuple):
            return [applied.temperature(left) for left in remaining]
        exact = [temperature_between(*ends, left / applied.steps) for left in remaining]
        return [GREEDY if one < COLDEST else one for one in exact]


def read_temperature(value: Temperature) -> Ends | None:
    """Both ends of the schedule; raises UsageError."""
    ends: tuple[object, ...]
    if value is None:
        return None
    if isinstance(value, str):
        try:
            ends = tuple(float(part) for part in value.split(":"))
        except ValueError:
            ends = ()
    else:
        ends = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    first, last = ends * 2 if len(ends) == 1 else ends if len(ends) == 2 else (None, None)
    if not all(isinstance(end, Real) and (end == 0 or is_number(end, 0, HOTTEST)) for end in (first, last)):
        raise UsageError(Param("temperature"), f" {value!r} must be A or A:B, numbers from 0 to {HOTTEST:g}, such as 0.8:0.4")
    return float(first), float(last)  # type: ignore[arg-type]  # numbers by now


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
