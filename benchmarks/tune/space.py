"""The options that tuning chooses among, and what the optimiser draws them by. It knows nothing of prompts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from dgemma.core.manifest import Manifest
from dgemma.core.schedule import SHAPES

WIDTHS = (16, 8, 4)  # a canvas starts with one of so many parts


class Draws(Protocol):
    """What of an optimiser's trial the space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Space:
    """For one bundle.

    Args:
        canvas: N.
        entropy_bound: the bundle's, in nats.
        has_candidates: whether its steps give draws, without which no bound may be wider.
        has_active: whether it has the graph that leaves positions out.
    """

    canvas: int
    entropy_bound: float
    has_candidates: bool
    has_active: bool

    @classmethod
    def of(cls, manifest: Manifest, engine: str, outputs: Collection[str]) -> Space:
        """`outputs`: names of what a step puts out."""
        return cls(
            canvas=manifest.canvas_length,
            entropy_bound=manifest.sampler.entropy_bound,
            has_candidates="drawn" in outputs,
            has_active="denoise_active" in manifest.graphs[engine],
        )

    def draw(self, trial: Draws) -> dict[str, Any]:
        """Options as `Session.generate` takes them, rounded to three digits, which is what the profile says."""
        first = _round(trial.suggest_float("first_temperature", 0.05, 1.5))
        last = _round(trial.suggest_float("last_temperature", 0.05, 1.5))
        least, most = self.entropy_bound / 100, 100 * self.entropy_bound if self.has_candidates else self.entropy_bound
        options: dict[str, Any] = {
            "temperature": [first, last],
            "schedule": trial.suggest_categorical("schedule", list(SHAPES)),
            "entropy_bound": min(_round(trial.suggest_float("entropy_bound", least, most, log=True)), most),
            "confidence": _round(trial.suggest_float("confidence", 1e-4, 1.0, log=True)),
            "stability": trial.suggest_int("stability", 0, 2),
        }
        if not self.has_active:
            return options
        widths = ["whole", *(max(1, self.canvas // part) for part in WIDTHS)]
        width = trial.suggest_categorical("start_width", widths)
        commits_early = trial.suggest_categorical("commits_early", [True, False])
        nats = _round(trial.suggest_float("early_commit", 1e-5, 0.3, log=True))  # drawn at any rate: one space for all trials
        rechecks = trial.suggest_categorical("recheck", [False, True])
        if width != "whole":
            options["start_width"] = width
        if commits_early:
            options["early_commit"] = nats
        if rechecks and (commits_early or width != "whole"):
            options["recheck"] = True
        return options


def _round(value: float) -> float:
    return float(f"{value:.3g}")
