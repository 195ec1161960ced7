"""How many positions ran in each step of canvases that a bundle really denoised, and the same schedule over more steps.

A trajectory does not say which positions ran, but what each step gave does: the rule that chose them (`core.compute_policy`)
is run once more over it. N canvas, M steps as recorded, K steps as wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.benchmarks.eval.items import EvalItem
from dgemma.core.compute_policy import ActiveSet, ComputePolicy
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.core.progress import progress
from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.session import Session

FILLED = 0.9  # of a canvas, in tokens before a stop token, from which it counts as filled


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One canvas.

    Args:
        prompt: number of its prompt.
        index: number of the canvas in its generation.
        shares: of each step, positions that ran over N.
        right: whether the whole answer was right.
    """

    prompt: int
    index: int
    shares: tuple[float, ...]
    right: bool


def replay(
    trajectory: Trajectory, index: int, compute: ComputePolicy | None, sampler: SamplerConfig, stops: Collection[int]
) -> tuple[list[int], list[int]]:
    """Positions that ran in each step of canvas `index`, and what was committed of it, as far as it had grown."""
    steps = np.flatnonzero(trajectory.canvas_index == index)
    n = trajectory.argmax.shape[1]
    if compute is None:
        return [n] * len(steps), trajectory.argmax[steps[-1]].tolist()
    state, ran = ActiveSet(n, compute, sampler, stops), list[int]()
    for step in steps:
        rows = state.begin()
        ran.append(len(rows))
        state.take(rows, trajectory.argmax[step, rows], trajectory.entropy[step, rows], trajectory.accepted[step, rows])
    return ran, state.argmax[: state.width].tolist()


def record(
    session: Session, items: Sequence[EvalItem], options: Mapping[str, Mapping[str, Any]], seed: int
) -> dict[str, list[Schedule]]:
    """Option → schedules of the canvases that it filled, in the order of the items."""
    found: dict[str, list[Schedule]] = {name: [] for name in options}
    manifest = session.manifest
    n = manifest.canvas_length
    for number, item in enumerate(progress(items, "schedules")):
        for name, given in options.items():
            result = session.generate(item.prompt, seed=seed, max_new_tokens=MAX_NEW_TOKENS, trace=True, **given)
            assert result.trajectory is not None
            right = result.text.strip() == item.answer.strip()
            for index in range(result.canvases):
                compute, stops = ComputePolicy.of(**given), manifest.model.eos_token_ids
                ran, canvas = replay(result.trajectory, index, compute, manifest.sampler, stops)
                if len(session.visible(canvas)) >= FILLED * n:
                    shares = tuple(rows / n for rows in ran)
                    found[name].append(Schedule(prompt=number, index=index, shares=shares, right=right))
    return found


def stretch(shares: Sequence[float], steps: int) -> npt.NDArray[np.float64]:
    """Shares [M] over `steps` = K steps, [K].

    Positions put through the stack so far are interpolated linearly over relative time, and a step gets what is added in its
    part of it. So the mean share stays, which is what a canvas costs at K steps; and for K ≥ M the first step stays what it
    was, whole for a whole start. For K < M the first step would be a mean of several: it stays as large as it was, which
    adds to the mean.

    What it does not know: a canvas that starts narrow doubles in every step, however many there are. A model that takes more
    steps to become certain of a position would run a whole canvas after as many doublings as before; here the doublings are
    stretched as well, which flatters a narrow start.
    """
    m = len(shares)
    passed = np.concatenate([[0.0], np.cumsum(shares)]) / m
    found = steps * np.diff(np.interp(np.arange(steps + 1) / steps, np.arange(m + 1) / m, passed))
    found[0] = max(found[0], shares[0])
    return found
