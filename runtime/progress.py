"""What a generation has done so far, and when it is over. It knows nothing of engines, prefixes or text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dgemma.runtime.result import StopReason


@dataclass
class Progress:
    """What a generation has done so far; becomes its Result."""

    most: int
    stops: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    canvases: int = 0
    passes: int = 0
    prefill_passes: int = 0
    prefill_s: float = 0.0
    denoise_s: float = 0.0
    commit_s: float = 0.0

    def accept(self, ids: Sequence[int]) -> tuple[list[int], StopReason | None]:
        """Take ids up to the first stop token or the limit; what the prefix gains, and why it ends, if it does."""
        end = None if self.stops.isdisjoint(ids) else next(i for i, token in enumerate(ids) if token in self.stops)
        room = self.most - len(self.tokens)
        new = list(ids[: room if end is None else min(end, room)])
        self.tokens += new
        if end is not None and end <= room:
            return [*new, ids[end]], "stop"
        return new, "length" if len(self.tokens) == self.most else None
