"""Exercises as a source of rows: made anew for every dozen of steps, those that are solved less often drawn more."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from dgemma.core.config import ModelConfig
from dgemma.core.messages import Message
from dgemma.train.data import Row, Speak, canvases
from dgemma.train.sources import GROUPS, dealt
from dgemma.train.tiny import tasks

HARD = {"add": 0.25, "sort_numbers": 0.5}  # tasks that a model of this size does not get, however often it sees them
LEAST = 0.15  # weight of a task that is solved
_DECAY = 0.99  # of a task's running exact match, for each canvas
_HELD_OUT_SEED, _HELD_OUT = 2, 8  # exercises of each task; evaluations and the sweep hold out with seeds 0 and 1


class Exercises:
    """One canvas of an answer a row, chosen at random where there are several.

    Args:
        whole: rows are whole answers: for the causal model alone.
    """

    size = None

    def __init__(self, speak: Speak, config: ModelConfig, batch: int, seed: int, *, whole: bool) -> None:
        self.speak, self.n, self.batch, self.seed, self.whole = speak, config.canvas_length, batch, seed, whole
        self.solved = dict.fromkeys(tasks.TASKS, 0.0)  # running exact match of a canvas
        self.round, self.weights, self.dealt = -1, self._weights(), list[list[Row]]()

    def _weights(self) -> list[float]:
        return [max(LEAST, 1.0 - solved) * HARD.get(task, 1.0) for task, solved in self.solved.items()]

    def _canvases(self, example: tasks.Example, line: int) -> list[Row]:
        messages = [Message(role="user", content=example.prompt), Message(role="assistant", content=example.answer)]
        ((prompt, answer),) = self.speak(messages, ())
        return canvases(prompt, answer, len(answer) if self.whole else self.n, line, example.task)

    def rows(self, step: int) -> list[Row]:
        round_, index = divmod(step, GROUPS)
        if round_ != self.round:
            self.round, self.weights, self.dealt = round_, self._weights(), []
        if not self.dealt:
            rng = random.Random((self.seed + 1) * 1_000_003 + round_)
            names = rng.choices(list(tasks.TASKS), self.weights, k=self.batch * GROUPS)
            made = [rng.choice(self._canvases(tasks.make(task, rng, "train"), i)) for i, task in enumerate(names)]
            self.dealt = dealt(made, self.batch, self.seed, round_)
        return self.dealt[index]

    def held_out(self) -> list[Row]:
        """Canvases of exercises whose operands never occur in training."""
        examples = tasks.held_out(_HELD_OUT, _HELD_OUT_SEED)
        return [row for i, example in enumerate(examples) for row in self._canvases(example, i)]

    def learned(self, rows: Sequence[Row], exact: Sequence[bool | None]) -> dict[str, Any]:
        for row, right in zip(rows, exact, strict=True):
            if right is not None:
                self.solved[row.file] = _DECAY * self.solved[row.file] + (1 - _DECAY) * right
        return {"exact": {task: round(solved, 3) for task, solved in self.solved.items()}}

    def state(self) -> dict[str, Any]:
        return {"solved": dict(self.solved), "round": self.round, "weights": list(self.weights)}

    def restore(self, state: dict[str, Any]) -> None:
        self.solved, self.round, self.weights = dict(state["solved"]), state["round"], list(state["weights"])
        self.dealt = []
