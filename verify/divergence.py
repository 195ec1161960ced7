"""The first difference between two trajectories of one prompt and seed, put down to a rule and its margin.

Float sums in another order flip near-ties, and one flip changes all that follows. So trajectories are compared up to the
first difference, and that one is measured: how far the rule was from deciding otherwise. numpy only. N canvas, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dgemma.core.errors import UsageError
from dgemma.core.noise import step_words, uniform_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory

Rule = Literal["argmax", "accept", "sample", "stop", "host"]

# Margins below which a flip counts as a near-tie. Engines differ by about 1e-5 in logits of ±30; entropies add up over N.
NEAR: dict[Rule, float] = {"argmax": 1e-3, "accept": 1e-3, "sample": 1e-4, "stop": 1e-4, "host": 0.0}
# Margins below which a decision was open, so that the noise of 8-bit arithmetic may well take it the other way: best two
# tokens within 10 % in odds; a fifth of the default entropy bound, in nats; 1 % of probability; nats. Beyond: damage.
CLOSE: dict[Rule, float] = {"argmax": 0.1, "accept": 0.02, "sample": 0.01, "stop": 0.01, "host": 0.0}

Logits = Callable[[Trajectory, int], npt.NDArray[np.float32]]  # trajectory, row → tempered logits [N, V]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first difference between two trajectories.

    Args:
        row: denoising step over all canvases, from 0; `canvas` and `step` (remaining) name the same.
        rule: argmax, accept, sample, stop, or host (noise, bookkeeping: never a near-tie).
        position: first canvas position that differs; None for stop.
        margin: argmax: gap of the two best tempered logits; accept: nats to the other decision, see `accept_margin`;
            sample: probability to the border between two tokens; stop: nats to the confidence threshold. None when it needs
            logits and none are there.
        entropy_error: largest difference of the two entropies in this row, in nats.
    """

    row: int
    canvas: int
    step: int
    rule: Rule
    position: int | None
    margin: float | None
    entropy_error: float

    @property
    def is_near_tie(self) -> bool | None:
        """None when the margin is not known."""
        return self.within(NEAR)

    def within(self, limits: Mapping[Rule, float]) -> bool | None:
        """Whether the margin is at most its rule's limit; None when it is not known."""
        return None if self.margin is None else self.margin <= limits[self.rule]


def accept_margin(entropy: npt.NDArray[Any], position: int, bound: float) -> float:
    """Nats that a position was from the other decision; entropy [N] float32, sums in float64.

    The smaller of two ways there: the entropies ahead of it sum up to the bound, or its own entropy moves it to a place in the
    order that is on the other side of the bound.
    """
    e = entropy.astype(np.float64)
    index = np.arange(len(e))
    ahead = (e < e[position]) | ((e == e[position]) & (index < position))
    total = float(e[ahead].sum())
    others = np.sort(np.delete(e, position))
    beyond = np.flatnonzero(np.cumsum(others) > bound)  # behind the first of these, a position is not accepted
    own = abs(float(others[beyond[0]]) - float(e[position])) if len(beyond) else float("inf")
    return min(abs(total - bound), own)


def sample_margin(logits: npt.NDArray[np.float32], token: int, u: float) -> float:
    """Probability between u and the nearer end of the token's interval of the inverse CDF; tempered logits [V]."""
    weights = np.exp((logits - logits.max()).astype(np.float64))
    running = np.cumsum(weights) / weights.sum()
    return float(min(abs(u - (running[token - 1] if token else 0.0)), abs(running[token] - u)))


def first_divergence(
    a: Trajectory, b: Trajectory, sampler: SamplerConfig, *, seed: int, logits: Logits | None = None
) -> Divergence | None:
    """Compare two trajectories of one prompt and seed; None when argmax, acceptance, canvases, steps and tokens are equal."""
    rows = min(len(a.step), len(b.step))
    if not np.array_equal(a.prompt_ids, b.prompt_ids):
        raise UsageError("trajectories of different prompts cannot be compared; use the same prompt for both")
    for row in range(rows):
        error = float(np.abs(a.entropy[row] - b.entropy[row]).max())
        where = {"row": row, "canvas": int(a.canvas_index[row]), "step": int(a.step[row]), "entropy_error": error}
        if a.canvas_index[row] != b.canvas_index[row] or a.step[row] != b.step[row]:
            return _stop(a, b, row - 1, sampler)
        for name in ("canvas_in", "argmax", "accepted", "canvas_out"):
            x, y = getattr(a, name)[row], getattr(b, name)[row]
            if np.array_equal(x, y):
                continue
            position = int(np.flatnonzero(x != y)[0])
            rule, margin = _explain(name, a, row, position, sampler, seed, logits)
            return Divergence(**where, rule=rule, position=position, margin=margin)  # type: ignore[arg-type]
    if len(a.step) != len(b.step):
        return _stop(a, b, rows - 1, sampler)
    if not np.array_equal(a.tokens, b.tokens):
        last = rows - 1
        return Divergence(
            row=last,
            canvas=int(a.canvas_index[last]),
            step=int(a.step[last]),
            rule="host",
            position=None,
            margin=None,
            entropy_error=0.0,
        )
    return None


def _explain(
    name: str, a: Trajectory, row: int, position: int, sampler: SamplerConfig, seed: int, logits: Logits | None
) -> tuple[Rule, float | None]:
    if name == "accepted":
        bound = sampler.entropy_bound if a.entropy_bound is None else float(a.entropy_bound[row])
        return "accept", accept_margin(a.entropy[row], position, bound)
    if name == "argmax":
        if logits is None:
            return "argmax", None
        best = np.sort(logits(a, row)[position])[-2:]
        return "argmax", float(best[1] - best[0])
    if name == "canvas_out" and a.accepted[row, position]:
        if logits is None:
            return "sample", None
        run = sampler.steps - int(a.step[row]) + 1
        word = step_words(seed, int(a.canvas_index[row]), run, a.canvas_in.shape[1])[0, position : position + 1]
        u = float(uniform_from_word(word)[0])
        return "sample", sample_margin(logits(a, row)[position], int(a.canvas_out[row, position]), u)
    return "host", None  # the input canvas, or a renoised token: integers from the noise alone


def _stop(a: Trajectory, b: Trajectory, row: int, sampler: SamplerConfig) -> Divergence:
    """One of them stopped after this row, the other went on: the mean entropy's distance to the threshold."""
    mean = float(a.entropy[row].mean(dtype=np.float64))
    return Divergence(
        row=row,
        canvas=int(a.canvas_index[row]),
        step=int(a.step[row]),
        rule="stop",
        position=None,
        margin=abs(mean - sampler.confidence_threshold),
        entropy_error=float(np.abs(a.entropy[row] - b.entropy[row]).max()),
    )
