"""Denoising steps as JSON, for pages that draw them. N canvas."""

from __future__ import annotations

import math
from typing import Any

from dgemma.runtime.result import StepEvent
from dgemma.runtime.session import Session

UNCERTAIN, CHANGED, SETTLED = "uncertain", "changed", "settled"


class Frames:
    """Frames of one generation."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: tuple[int, list[int]] = (-1, [])
        self._most = math.log(max(2, session.manifest.model.vocab_size))

    def frame(self, event: StepEvent) -> dict[str, Any]:
        """What a step gave, as the API's page on streams describes it: lists have one entry for each of the N positions.

        `doubt` is the root of the entropy relative to that of the uniform distribution, from 0 to 1.
        """
        ids = [int(token) for token in event.argmax]
        canvas, before = self._before
        known = canvas == event.canvas_index
        self._before = event.canvas_index, ids
        entropy = [max(0.0, float(value)) for value in event.entropy]
        tokenizer = self._session.tokenizer
        return {
            "canvas": event.canvas_index,
            "step": event.step,
            "steps": self._session.manifest.steps,
            "ids": ids,
            "text": tokenizer.pieces(ids) if tokenizer else [""] * len(ids),
            "entropy": [round(value, 4) for value in entropy],
            "doubt": [round(math.sqrt(min(1.0, value / self._most)), 3) for value in entropy],
            "state": [
                CHANGED if known and before[i] != token else SETTLED if event.accepted[i] else UNCERTAIN
                for i, token in enumerate(ids)
            ],
            "end": len(self._session.visible(event.argmax)),
        }
