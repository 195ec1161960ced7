"""Guidance: how far a step is pushed away from what the model would say without the prompt, or without its own last step.

It knows nothing of bundles or prompts' ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dgemma.core.errors import Param, UsageError
from dgemma.core.scalars import is_int, is_number

MOST = 100.0
GUIDANCE = ("guidance", "negative", "guidance_steps")  # keywords of `Guidance.of`


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Of one generation.

    Args:
        scale: s; hidden states become h₋ + s · (h − h₋) before the head. 1 changes nothing, 0 answers the negative prompt.
        negative: the prompt that h₋ answers: text, or ids taken verbatim; None: h₋ answers the same prompt, without what the
            last step said of the positions that it did not accept.
        steps: first and last step of each canvas that are guided, from 1; None: all.
    Raises:
        UsageError.
    """

    scale: float
    negative: str | Sequence[int] | None = None
    steps: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not is_number(self.scale, -1, MOST) or self.scale < 0:
            raise UsageError(Param("guidance"), f" {self.scale!r} must be a number from 0 to {MOST:g}; 1 changes nothing")
        object.__setattr__(self, "scale", float(self.scale))
        if self.negative is not None:
            object.__setattr__(self, "negative", _prompt(self.negative))
        if self.steps is not None:
            object.__setattr__(self, "steps", _range(self.steps))

    @classmethod
    def of(
        cls,
        *,
        guidance: float | None = None,
        negative: str | Sequence[int] | None = None,
        guidance_steps: str | Sequence[int] | None = None,
    ) -> Guidance | None:
        """From what a user asks for; None where that is nothing. Raises UsageError."""
        if guidance is None:
            for name, value in (("negative", negative), ("guidance_steps", guidance_steps)):
                if value is not None:
                    raise UsageError(Param(name), " needs ", Param("guidance"), "; give it as well, or leave this out")
            return None
        steps = _read(guidance_steps) if isinstance(guidance_steps, str) else guidance_steps
        return cls(scale=guidance, negative=negative, steps=steps)

    def guides(self, step: int) -> bool:
        """Whether step number `step` of a canvas, from 1, is guided."""
        return self.scale != 1 and (self.steps is None or self.steps[0] <= step <= self.steps[1])


def _prompt(value: object) -> str | tuple[int, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Sequence) and value and all(is_int(one, 0) for one in value):
        return tuple(int(one) for one in value)
    raise UsageError(Param("negative"), " must be non-empty text, or ids")


def _read(text: str) -> Sequence[int]:
    """A:B, or one number for both."""
    first, _, last = text.partition(":")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise UsageError(Param("guidance_steps"), f" {text[:20]!r} must be A:B, two step numbers such as 2:8") from None


def _range(steps: Sequence[int]) -> tuple[int, int]:
    ends = tuple(steps) if isinstance(steps, Sequence) else ()
    if len(ends) != 2 or not all(is_int(one, 1) for one in ends) or ends[0] > ends[1]:
        raise UsageError(Param("guidance_steps"), f" {steps!r} must be the first and the last step, such as 2 and 8")
    return int(ends[0]), int(ends[1])
