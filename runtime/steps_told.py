"""What is kept of a generation's steps besides tokens: a record, and log-probabilities of what the last one committed."""

from __future__ import annotations

from collections.abc import Callable

from dgemma.core.sampler_options import BANNED
from dgemma.core.trajectory import TrajectoryRecorder
from dgemma.runtime.loops import DenoisingStep
from dgemma.runtime.result import TokenLogprob

# Told of every step: number of its canvas, from 0, and its own there, from 1; the step; tokens of the canvases before.
Watcher = Callable[[int, int, DenoisingStep, tuple[int, ...]], None]


def logprobs(step: DenoisingStep, count: int | None) -> list[TokenLogprob]:
    """Of a canvas's last step, for as far as it has grown; with `count` candidates each."""
    if step.candidates is None or count is None:
        return []
    found = []
    for token, ids, values in zip(step.argmax[: step.width].tolist(), *(c.tolist() for c in step.candidates), strict=False):
        of = dict(zip(ids, values, strict=True))
        top = tuple((i, value) for i, value in zip(ids[:count], values[:count], strict=True) if value != BANNED)
        found.append(TokenLogprob(token, of.get(token, BANNED), top))
    return found


def also_recorded(watch: Watcher | None, recorder: TrajectoryRecorder | None) -> Watcher | None:
    """A watcher that records every step before `watch` is told of it."""
    if recorder is None:
        return watch

    def record(canvas_index: int, number: int, step: DenoisingStep, committed: tuple[int, ...]) -> None:
        recorder.add(
            canvas_index,
            step.remaining,
            float(step.temperature),
            step.canvas_in,
            step.argmax,
            step.entropy,
            step.accepted,
            step.canvas_out,
            step.bound,
        )
        if watch is not None:
            watch(canvas_index, number, step, committed)

    return record
