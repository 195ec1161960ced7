"""An example reader of the `work_runs` of trajectories.json: which positions run, and what follows from it, in sets and lists.

It is written apart from `dgemma.core.compute_policy`, and takes nothing from the package but the noise. What the causal encoder
says of a draft is not recorded; it wrote `tokens`, so drafts are held to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgemma.core.noise import canvas_words, step_words, token_from_word

Run = dict[str, Any]


class Canvas:
    """One canvas on its way: `left` are the positions that do not run, `width` is how many it has."""

    def __init__(self, head: dict[str, Any], work: dict[str, Any]) -> None:
        self.n, self.sampler, self.stops = head["canvas_length"], head["sampler"], head["eos_token_ids"]
        self.early_commit, self.recheck = np.float32(work["settle"]), work["repair"]
        self.width: int = {"auto": self.n // 16, None: self.n}.get(work["canvas"], work["canvas"])
        self.left: set[int] = set()
        self.grows = self.rechecking = False
        self.seen: list[list[int]] = []

    def rows(self) -> list[int]:
        """Positions of the next step."""
        self.width = min(self.n, self.width * 2) if self.grows else self.width
        if self.left >= set(range(self.width)):
            self.left -= set(range(self.width))
        return sorted(set(range(self.width)) - self.left)

    def done(self, rows: list[int], argmax: list[int], entropy: list[float]) -> bool:
        """Whether it is committed after a step, of which argmax and entropy [N] are told."""
        self.left |= {i for i in rows if np.float32(entropy[i]) < self.early_commit}
        stops = [i for i in range(self.width) if argmax[i] in self.stops]
        if ended := [i for i in stops if i in self.left]:
            self.left |= set(range(ended[0], self.width))
            self.width = ended[0] + 1
        self.grows = self.width < self.n and not stops
        self.seen.append(argmax[: self.width])
        same = 0
        while same + 1 < len(self.seen) and self.seen[-same - 2] == self.seen[-1]:
            same += 1
        sure = sum(entropy[: self.width]) / self.n < self.sampler["confidence_threshold"]
        still = sure and same >= self.sampler["stability_threshold"]
        over = not self.grows and (still or self.left >= set(range(self.width)))
        self.rechecking = over and self.recheck and not self.rechecking
        if self.rechecking:
            self.left |= set(range(self.width))
        return over and not self.rechecking


class Reader:
    """One run, row by row; `problem` is the first rule that it does not follow."""

    def __init__(self, head: dict[str, Any], run: Run) -> None:
        self.head, self.run, self.work = head, run, run["work"]
        self.n, self.steps = head["canvas_length"], head["sampler"]["steps"]
        self.committed, self.position_forwards, self.over = list[int](), 0, False

    def problem(self) -> str | None:
        rows, canvas = len(self.run["step"]), Canvas(self.head, self.work)
        state: dict[str, list[Any]] = {}
        for i in range(rows):
            if self.run["step"][i] == self.steps:
                canvas = Canvas(self.head, self.work)
                state = {name: [0] * self.n for name in ("argmax", "entropy", "accepted")} | {"canvas_out": self.first(i)}
            active = canvas.rows()
            if wrong := self.step(i, canvas, active, state):
                return f"row {i}: {wrong}"
            state = {name: self.run[name][i] for name in state}
            last = i + 1 == rows or self.run["canvas_index"][i + 1] != self.run["canvas_index"][i]
            if last != (self.over or self.run["step"][i] == 1):
                return f"row {i}: stop"
            if last and self.commit(i, canvas, last=i + 1 == rows):
                return f"row {i}: draft"
        return self.ended()

    def first(self, i: int) -> list[int]:
        """A canvas before its first step, which is row i."""
        canvas: list[int] = self.noise(canvas_words(int(self.run["seed"]), self.run["canvas_index"][i], self.n))
        if self.work["speculate"]:
            canvas[0] = self.said(len(self.committed), self.run["canvas_in"][i][0])
        return canvas

    def said(self, index: int, found: int) -> int:
        """The id number `index` of the text: `tokens`, and behind them a stop token, which is taken as found."""
        tokens, stops = self.run["tokens"], self.head["eos_token_ids"]
        if index < len(tokens):
            return int(tokens[index])
        return found if index == len(tokens) and found in stops else -1

    def noise(self, words: Any) -> list[int]:
        return [int(token) for token in token_from_word(words, self.head["vocab_size"])]

    def step(self, i: int, canvas: Canvas, active: list[int], state: dict[str, list[Any]]) -> str | None:
        """One row after the state that the row before left."""
        run, n = self.run, self.n
        self.position_forwards += len(active)
        if run["canvas_in"][i] != state["canvas_out"]:
            return "canvas_in"
        for name in ("argmax", "entropy", "accepted"):
            if any(run[name][i][j] != state[name][j] for j in set(range(n)) - set(active)):
                return f"{name} of a position that did not run"
        entropy, accepted = run["entropy"][i], run["accepted"][i]
        for j in active:
            ahead = sum(entropy[k] for k in active if (entropy[k], k) < (entropy[j], j))
            if accepted[j] != (ahead <= self.head["sampler"]["entropy_bound"]):
                return "accepted"
        self.over = canvas.done(active, run["argmax"][i], entropy)
        number = self.steps - run["step"][i] + 1
        fresh = self.noise(step_words(int(run["seed"]), run["canvas_index"][i], number, n)[1])
        for j, out in enumerate(run["canvas_out"][i]):
            free = out if accepted[j] else fresh[j]
            want = run["argmax"][i][j] if j in canvas.left else free if j in active else state["canvas_out"][j]
            if out != want:
                return "canvas_out"
        return None

    def commit(self, i: int, canvas: Canvas, *, last: bool) -> bool:
        """Take a canvas whose last row is i; whether not even its first id holds."""
        ids, stops = self.run["argmax"][i][: canvas.width], self.head["eos_token_ids"]
        if not self.work["speculate"]:
            self.committed += ids
            self.position_forwards += 0 if last else len(ids)
            return False
        start = i - (self.steps - self.run["step"][i])
        draft = [self.run["canvas_in"][start][0], *ids[1:]]
        draft = draft[: next((j + 1 for j, token in enumerate(draft) if token in stops), len(draft))]
        self.position_forwards += len(draft)
        at = len(self.committed)
        holds = next((j for j, token in enumerate(draft) if token != self.said(at + j, token)), len(draft))
        self.committed += draft[:holds]
        return holds == 0

    def ended(self) -> str | None:
        run, stops = self.run, self.head["eos_token_ids"]
        tokens = self.committed[: self.head["max_new_tokens"]]
        end = next((j for j, token in enumerate(tokens) if token in stops), len(tokens))
        reason = "stop" if end < len(tokens) else "length"
        if (tokens[:end], reason) != (run["tokens"], run["stop_reason"]):
            return "tokens"
        counted = (self.position_forwards, run["canvas_index"][-1] + 1)
        return None if counted == (run["passes"], run["canvases"]) else "passes"
