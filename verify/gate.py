"""The gate: limits for a recipe's figures. They are fixed here, not in recipes, so that no recipe can excuse itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_ROUNDING = 1e-9  # 3 of 600 prompts are 0.5 points, whatever the sum of floats says


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The worst figures that pass.

    Args:
        exact_match_loss: points that the artifact may be below the float model; above it there is no limit.
        step_inflation: denoising steps of the artifact over those of the float model, all prompts summed.
    """

    exact_match_loss: float
    step_inflation: float

    def __post_init__(self) -> None:
        if not (self.exact_match_loss >= 0 and self.step_inflation >= 1):
            raise ValueError(f"{self.exact_match_loss=} must be at least 0 and {self.step_inflation=} at least 1")


STRICT = Limits(exact_match_loss=0.5, step_inflation=1.02)
LIMITS = {"fp32": STRICT, "w8": STRICT, "w8a16": STRICT}
OTHERS = Limits(exact_match_loss=2.0, step_inflation=1.10)  # w4-mixed, w4a16-mixed and every recipe without limits of its own


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure against its limit; None or NaN does not pass."""

    name: str
    value: float | None
    limit: float

    @property
    def passed(self) -> bool:
        return self.value is not None and not math.isnan(self.value) and self.value <= self.limit + _ROUNDING

    def to_dict(self) -> dict[str, Any]:
        value = self.value if self.value is not None and math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "passed": self.passed}

    def __str__(self) -> str:
        value = "not a number" if self.value is None else f"{self.value:.4g}"
        return f"{self.name} {value} (limit {self.limit:g})"


def limits_of(recipe: str) -> Limits:
    return LIMITS.get(recipe, OTHERS)


def judge(recipe: str, free: Mapping[str, Any], forced: Mapping[str, Any]) -> list[Check]:
    """Checks of figures: see `free_running.figures` and `teacher_forced.TeacherForced.figures`.

    Without answers there is no check of exact match, and none if the float model has no answer right: it could not fail.
    """
    limits = limits_of(recipe)
    checks = [
        Check(name="step inflation", value=free["step_inflation"]["value"], limit=limits.step_inflation),
        Check(name="teacher-forced figures that are not finite", value=forced["not_finite"], limit=0),
    ]
    if free["exact_match_loss"] is not None and free["exact_match"]["float"]["right"]:
        points = 100 * free["exact_match_loss"]["value"]
        loss = Check(name="exact match below float, in points", value=points, limit=limits.exact_match_loss)
        checks.insert(0, loss)
    return checks
