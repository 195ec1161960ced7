"""One backend against another: forced steps, free generations up to their first difference, and where they part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dgemma.core.errors import DgemmaError
from dgemma.core.trajectory import Trajectory
from dgemma.verify import bisect
from dgemma.verify.backend import Backend
from dgemma.verify.divergence import Divergence, first_divergence
from dgemma.verify.gate import Check
from dgemma.verify.teacher_forced import Place, TeacherForced
from dgemma.verify.tolerance import Tolerance

STEPS_RATIO = 2.0  # denoising steps of a backend over those of the one above, or the other way round: a stop rule that works


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Generations of one backend, by golden run; `fused` those of an engine's `generate` graph."""

    runs: list[Trajectory]
    fused: list[Trajectory] | None = None

    @property
    def steps(self) -> int:
        return sum(len(t.step) for t in self.runs)


@dataclass
class Comparison:
    """One backend against one above it: forced steps, and free generations up to their first difference."""

    above: Backend
    below: Backend
    tolerance: Tolerance
    forced: TeacherForced
    differences: list[tuple[int, Divergence]] = field(default_factory=list)
    steps_ratio: float = 1.0

    @property
    def unexplained(self) -> list[tuple[int, Divergence]]:
        """Differences beyond the margins, or whose margin is not known."""
        limits = self.tolerance.margins
        if limits is None:
            return []
        return [(i, d) for i, d in self.differences if d.within(limits) is not True]

    def checks(self) -> list[Check]:
        """Every judged figure with its limit."""
        limit, forced = self.tolerance, self.forced
        found = [
            Check(
                name="tensors, relative error",
                value=_worst([s.soft_error for s in forced.steps], [error for _, error in forced.prefixes]),
                limit=limit.tensors,
            ),
            Check(
                name="entropy error, nats",
                value=_worst([float(s.entropy_error.max()) for s in forced.steps]),
                limit=limit.entropy,
            ),
            Check(
                name="other argmax, share",
                value=1 - float(np.concatenate([s.same for s in forced.steps]).mean()),
                limit=limit.argmax,
            ),
            Check(
                name="other next token, share",
                value=1 - float(np.concatenate([s.canvas for s in forced.steps]).mean()),
                limit=limit.canvas,
            ),
            Check(name="steps run, ratio", value=max(self.steps_ratio, 1 / self.steps_ratio), limit=STEPS_RATIO),
        ]
        if log_probs := forced.log_probs_errors:
            found.append(Check(name="log-probabilities, error of range", value=_worst(log_probs), limit=limit.logits))
            broken = sum(s.broken for s in forced.steps)
            found.append(Check(name="positions whose draw or candidates contradict the step", value=broken, limit=0))
        errors = [s.logits_error for s in forced.steps if s.logits_error is not None]
        if errors:
            found.insert(0, Check(name="logits, error of range", value=_worst(errors), limit=limit.logits))
        if limit.margins is not None:
            found.append(Check(name="generations that diverge without a near-tie", value=len(self.unexplained), limit=0))
        return found

    def first_wrong(self) -> Place | None:
        """The first forced step with a figure beyond its limit; else, where too many decisions differ, the first such."""
        limit = self.tolerance
        prefixes = dict(self.forced.prefixes)
        for step in self.forced.steps:
            figures = [
                (prefixes.get(step.place, 0.0), limit.tensors),
                (step.soft_error, limit.tensors),
                (float(step.entropy_error.max()), limit.entropy),
                (step.logits_error or 0.0, limit.logits),
                (step.log_probs_error or 0.0, limit.logits),
                (step.broken, 0),
            ]
            if not all(value <= most for value, most in figures):  # NaN is beyond
                return step.place
        shares = {c.name: c for c in self.checks() if c.name.endswith("share") and not c.passed}
        for step in self.forced.steps if shares else []:
            if not (step.same.all() and step.canvas.all()):
                return step.place
        return None

    def fault(self, guide: Backend, seeds: Sequence[int], generated: dict[str, Generated]) -> bisect.Fault | None:
        """Where they part, in the first forced step that is wrong, or else in the first generation."""
        place = self.first_wrong()
        if place is not None:
            trajectory = generated[guide.name].runs[place.run]
            found = bisect.forced_fault(
                self.above, self.below, guide, trajectory, seeds[place.run], place.run, place.row, self.tolerance
            )
            if found is not None:
                return found
        for run, difference in self.unexplained or self.differences:
            a, b = (generated[backend.name].runs[run] for backend in (self.above, self.below))
            return bisect.loop_fault(a, b, run, difference, self.tolerance)
        return None

    def figures(self) -> dict[str, Any]:
        return {
            "tolerance": asdict(self.tolerance),
            "checks": [c.to_dict() for c in self.checks()],
            "generations_equal": len({s.place.run for s in self.forced.steps}) - len(self.differences),
            "differences": [{"run": run, **asdict(d)} for run, d in self.differences],
            "teacher_forced": self.forced.figures(self.below.without_logits or self.above.without_logits),
        }


def divergence_of(above: Backend, a: Trajectory, b: Trajectory, seed: int) -> Divergence | None:
    """First difference; its margin from the logits of the backend above where it needs them and they can be had."""
    found = first_divergence(a, b, above.sampler, seed=seed)
    if found is None or found.margin is not None or found.rule == "host":
        return found
    try:
        return first_divergence(a, b, above.sampler, seed=seed, logits=above.logits)
    except (ValueError, DgemmaError):  # no logits, and so no margin
        return found


def _worst(*values: Sequence[float]) -> float:
    """The largest; NaN when one is."""
    return float(np.max([v for part in values for v in part]))
