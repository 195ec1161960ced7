"""What a generation has done so far, and when it is over. It knows nothing of engines, prefixes or text."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dgemma.core.messages import ToolCall
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.engines.base import Array
from dgemma.runtime.result import Result, StopReason, Timings, TokenLogprob
from dgemma.runtime.structure.structured import StructuredAnswer


class Accepted(NamedTuple):
    """Ids that the prefix gains behind its answer's first `kept` tokens, and why the generation ends, if it does."""

    kept: int
    new: list[int]
    reason: StopReason | None


@dataclass(kw_only=True)
class Progress:
    """What a generation has done so far; becomes its Result, whose names and meanings its fields have.

    Args:
        most: tokens, at most.
        stops: ids that end it.
        started: by `time.perf_counter`.
        native_s: of the engine's seconds what it had when the generation began; once it has ended, what they grew by.
        cut: how many of the answer's tokens stay, where its text ends early; None where it does not. `is_cut`: whether it did.
        structured: the language that the answer must be of.
    """

    most: int
    stops: frozenset[int]
    started: float
    native_s: float
    cut: Callable[[Sequence[int]], int | None] | None = None
    is_cut: bool = False
    structured: StructuredAnswer | None = None
    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    choice_log_probs: list[float] = field(default_factory=list)
    pads: int = 0
    steps: int = 0
    canvases: int = 0
    position_forwards: int = 0
    prefill_position_forwards: int = 0
    load_s: float = 0.0
    prefill_s: float = 0.0
    denoise_s: float = 0.0
    commit_s: float = 0.0
    waited_s: float = 0.0
    behind: int = 0
    reason: StopReason = "cancelled"
    trajectory: Trajectory | None = None
    warnings: list[str] = field(default_factory=list)

    def accept(self, ids: Sequence[int]) -> Accepted:
        """Take ids up to the first stop token, the limit, or where the text ends, which may be before them."""
        before = len(self.tokens)
        end = None if self.stops.isdisjoint(ids) else next(i for i, token in enumerate(ids) if token in self.stops)
        room = self.most - len(self.tokens)
        new = list(ids[: room if end is None else min(end, room)])
        self.tokens += new
        if self.cut is not None and (stay := self.cut(self.tokens)) is not None:
            del self.tokens[stay:]
            self.is_cut = True
            return Accepted(min(stay, before), self.tokens[before:], "stop")
        if end is not None and end <= room:
            return Accepted(before, [*new, ids[end]], "stop")
        return Accepted(before, new, "length" if len(self.tokens) == self.most else None)

    def fill(self, canvas: Sequence[int], length: int, *, ends: bool) -> Accepted:
        """Take a template's canvas: its first `length` ids, whatever its holes hold, and the stop token behind them, if any.
        The answer is whole where the template `ends`."""
        before, new = len(self.tokens), list(canvas[:length])
        self.tokens += new
        stop = [token for token in canvas[length : length + 1] if token in self.stops]
        return Accepted(before, [*new, *stop], "stop" if ends else None)

    def result(
        self,
        text: str,
        engine: str,
        loop: str,
        *,
        thinking: str = "",
        tool_calls: tuple[ToolCall, ...] = (),
        warnings: tuple[str, ...] = (),
        stop_string: str | None = None,
        holes: tuple[str, ...] = (),
        choice_probabilities: Mapping[str, float] | None = None,
    ) -> Result:
        """Of a generation that has ended."""
        timings = Timings(
            load_s=self.load_s,
            prefill_s=self.prefill_s,
            denoise_s=self.denoise_s,
            commit_s=self.commit_s,
            total_s=time.perf_counter() - self.started,
            engine_s=self.native_s,
            waited_s=self.waited_s,
        )
        return Result(
            text=text,
            thinking=thinking,
            tool_calls=tool_calls,
            warnings=warnings,
            stop_string=stop_string,
            holes=holes,
            choice_probabilities=choice_probabilities,
            tokens=tuple(self.tokens),
            entropies=tuple(self.entropies),
            logprobs=tuple(self.logprobs),
            pads=self.pads,
            steps=self.steps,
            canvases=self.canvases,
            position_forwards=self.position_forwards,
            prefill_position_forwards=self.prefill_position_forwards,
            stop_reason=self.reason,
            engine=engine,
            loop=loop,
            timings=timings,
            trajectory=self.trajectory,
            behind=self.behind,
        )


def visible(canvas: Sequence[int] | Array, stops: Collection[int], *, stop: bool = False) -> list[int]:
    """Ids of a canvas [N] before its first stop token, or with `stop` up to it."""
    ids = [int(i) for i in canvas]
    return ids[: next((i + stop for i, token in enumerate(ids) if token in stops), len(ids))]
