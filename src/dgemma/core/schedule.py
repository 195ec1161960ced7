"""How temperature and entropy bound go from step to step: shapes between two ends, and tables of values.

It knows nothing of bundles: whether a graph runs as many steps as a table has is checked elsewhere.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dgemma.core.errors import Param, UsageError
from dgemma.core.sampler import MOST_STEPS, between_ends
from dgemma.core.scalars import is_number

HOTTEST = 100.0
LINEAR, COSINE = "linear", "cosine"
# Share of the way from the last end to the first, of the share r / T of steps remaining: 1 at 1, and 0 at 0.
SHAPES: dict[str, Callable[[float], float]] = {
    LINEAR: lambda left: left,
    COSINE: lambda left: (1 - math.cos(math.pi * left)) / 2,
}
Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ScheduleTable:
    """Values of every step, first step first, as many as there are steps; an empty one: as it would be without the table.

    Args:
        temperature: from 0 to 100 each.
        entropy_bound: nats, above 0.
    Raises:
        UsageError.
    """

    temperature: Sequence[float] = ()
    entropy_bound: Sequence[float] = ()

    def __post_init__(self) -> None:
        for name, fits, what in (
            ("temperature", is_temperature, f"numbers from 0 to {HOTTEST:g}"),
            ("entropy_bound", is_positive, "positive numbers of nats"),
        ):
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Sequence) or not all(fits(one) for one in values):
                raise UsageError(Param("schedule"), f": {name} must be a list of {what}")
            object.__setattr__(self, name, tuple(float(one) for one in values))
        sizes = {len(values) for values in (self.temperature, self.entropy_bound) if values}
        if len(sizes) != 1:
            why = " has lists of different lengths" if sizes else " has no values; give temperature, entropy_bound or both"
            raise UsageError(Param("schedule"), why)
        if self.steps > MOST_STEPS:
            raise UsageError(Param("schedule"), f" has {self.steps} steps; at most {MOST_STEPS} are possible")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ScheduleTable:
        """From its fields; raises UsageError for an unknown one, too."""
        known = [f.name for f in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise UsageError(Param("schedule"), f" has an unknown key {str(unknown[0])[:40]!r}; choose from {', '.join(known)}")
        return cls(**values)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.temperature or self.entropy_bound)


Schedule = str | Mapping[str, Sequence[float]] | ScheduleTable | None


def read_schedule(value: Schedule) -> str | ScheduleTable | None:
    """The name of a shape, or a table; raises UsageError."""
    if value is None or isinstance(value, ScheduleTable):
        return value
    if isinstance(value, str) and value in SHAPES:
        return value
    if not isinstance(value, Mapping):
        what = f"{' or '.join(SHAPES)}, or a table of temperature and entropy_bound"
        raise UsageError(Param("schedule"), f" {str(value)[:40]!r} must be {what}")
    return ScheduleTable.of(value)


def parse_table(text: str, *, toml: bool) -> Mapping[str, Any]:
    """The object of a TOML or JSON text; raises ValueError with a reason of one line."""
    try:
        value = tomllib.loads(text) if toml else json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(str(error).splitlines()[0][:120]) from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def read_ends(name: str, value: object, fits: Callable[[object], bool], what: str) -> Ends | None:
    """Both ends of what goes from step to step: of one number, of two, or of a text A or A:B; raises UsageError."""
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
    if not (fits(first) and fits(last)):
        raise UsageError(Param(name), f" {value!r} must be {what}")
    return float(first), float(last)  # type: ignore[arg-type]  # numbers by now


def between(ends: Ends, shape: str, steps: int) -> list[float]:
    """Of every step, first step first: b + (a − b) · s(r / T) with r of T steps remaining."""
    return [between_ends(*ends, SHAPES[shape](left / steps)) for left in range(steps, 0, -1)]


def is_temperature(value: object) -> bool:
    return is_number(value, -1, HOTTEST) and value >= 0


def is_positive(value: object) -> bool:
    return is_number(value, 0, math.inf)
