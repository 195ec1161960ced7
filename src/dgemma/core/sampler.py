"""The sampler's policy: how a canvas is denoised. One frozen dataclass; every default lives here and only here.

It knows nothing of tensors. The rule itself is in `model/sampler.py` (torch, and from there in the graphs).
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from dgemma.core.errors import UsageError

EXACT, TOP_K = "exact", "topk:"
MOST_K = 1024
MOST_STEPS = 4096
CANDIDATES = 16  # likeliest ids of a position that a step puts out, at least
# What `generate` takes beside noise and prefix; graphs of older bundles have the exported values built in.
LOOP_INPUTS = ("temperatures", "bounds", "most_steps", "confidence", "stability")
CANDIDATE_OUTPUTS = ("drawn", "likeliest", "log_probs")  # of a step; graphs of older bundles do not have them


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Entropy-bound sampling with a linear temperature schedule and an adaptive stop.

    Args:
        steps: T, denoising steps for one canvas at most.
        t_min: temperature that the schedule tends to after the last step.
        t_max: temperature of the first step.
        entropy_bound: nats; see `model/sampler.py:accept`.
        stability_threshold: steps for which the argmax canvas must not change before a stop.
        confidence_threshold: nats; mean entropy must be below it for a stop.
        soft: what the next step's soft embedding is the mean of: `exact`, the embeddings of all ids, or `topk:K`, those of the
            K likeliest, their probabilities made to sum to 1. (No rule hangs on that sum: the norm that reads a soft embedding
            takes its length away.)

    Source: transformers `generation_diffusion_gemma.py`, `_get_default_generation_params`.
    """

    steps: int = 48
    t_min: float = 0.4
    t_max: float = 0.8
    entropy_bound: float = 0.1
    stability_threshold: int = 1
    confidence_threshold: float = 0.005
    soft: str = EXACT

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or not 1 <= self.steps <= MOST_STEPS:
            raise UsageError(f"steps={self.steps!r} must be an integer between 1 and {MOST_STEPS}")
        if not 0 < self.t_min < self.t_max:
            raise UsageError(f"temperatures must satisfy 0 < t_min < t_max: t_min={self.t_min}, t_max={self.t_max}")
        if not self.entropy_bound > 0:
            raise UsageError(f"entropy_bound={self.entropy_bound} must be positive")
        if not isinstance(self.stability_threshold, int) or self.stability_threshold < 0:
            raise UsageError(f"stability_threshold={self.stability_threshold} must be an integer, 0 or more")
        if not self.confidence_threshold > 0:
            raise UsageError(f"confidence_threshold={self.confidence_threshold} must be positive")
        if self.soft != EXACT and not (re.fullmatch(f"{TOP_K}[1-9][0-9]{{0,3}}", self.soft) and (self.top_k or 0) <= MOST_K):
            raise UsageError(f"soft={self.soft!r} must be {EXACT}, or {TOP_K}K with K between 1 and {MOST_K}")

    @property
    def top_k(self) -> int | None:
        """K of `topk:K`; None where the soft embedding is exact."""
        return None if self.soft == EXACT else int(self.soft.removeprefix(TOP_K))

    def candidates(self, vocab_size: int) -> int:
        """K, how many of the likeliest ids of each position a step puts out."""
        return min(max(self.top_k or 0, CANDIDATES), vocab_size)

    def temperature(self, remaining: int) -> float:
        """Temperature of the step with `remaining` steps left, T…1."""
        return between_ends(self.t_max, self.t_min, remaining / self.steps)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SamplerConfig:
        """Inverse of `to_dict`; raises UsageError on an unknown key."""
        if unknown := set(values) - {f.name for f in dataclasses.fields(cls)}:
            raise UsageError(f"unknown sampler key {sorted(unknown)[0]!r}")
        return cls(**values)


def between_ends(first: float, last: float, left: float) -> float:
    """What goes from step to step with a share `left` of the way to go: `first` at 1, `last` at 0."""
    return last + (first - last) * left
