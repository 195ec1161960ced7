"""The loop over steps: it trains what has gradients, measures, logs and saves, and goes on from a saved state bit for bit.

Order and noise of a step are drawn from generators seeded by its number, so a state needs none of theirs. It knows no files but
those of its work folder.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma.core.errors import CheckpointError, TrainingError
from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import Denoiser
from dgemma.train.balance import Balance
from dgemma.train.data import Batch, Row, collate, dropped
from dgemma.train.levels import Levels
from dgemma.train.objective import losses
from dgemma.train.optimizers import Optimizers
from dgemma.train.options import Course, Objective, Optimizer
from dgemma.train.original import Original
from dgemma.train.records import LOG, Records
from dgemma.train.sources import Source

STATE = "state.pt"
_HELD_OUT_SEED = 2**60  # beyond the seeds of steps
_LEAST_ROWS = 4  # of a piece
_PIECE = 2**17  # elements of the hidden state that a piece may have beyond that; larger ones take memory, and no less time


@dataclass(frozen=True)
class Progress:
    """After `step`: seconds of training so far and left, the last loss, the last held-out one and the best.

    Args:
        done: share of the run.
    """

    step: int
    done: float
    seconds: float
    left: float
    loss: float
    held_out: float
    best: float


@dataclass(frozen=True)
class Outcome:
    """What a run ended with: the best trained tensors by name, their held-out loss and step, and whether it was stopped."""

    tensors: dict[str, Tensor]
    held_out: float
    best_step: int
    step: int
    tokens: int
    seconds: float
    stopped: bool


@dataclass(frozen=True)
class Measured:
    """Means over rows; what each row in its order came out as."""

    loss: float
    diffusion: float
    next_token: float
    positions: int
    exact: list[bool | None]


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal floats are 0 while it lasts: a large vocabulary has many effectively zero probabilities, which are slow."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Loop:
    """One run over a model whose trained parameters have gradients.

    Args:
        held_out: rows that are measured and not trained on.
        work: folder of state, log and pictures; it exists.
        identity: what a state must have been made with, to be gone on from.
        say: called after every step.
    """

    def __init__(
        self,
        model: Denoiser,
        policy: SamplerConfig,
        source: Source,
        held_out: Sequence[Row],
        objective: Objective,
        optimizer: Optimizer,
        course: Course,
        work: Path,
        identity: dict[str, Any],
        say: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.model, self.policy, self.source, self.objective, self.course = model, policy, source, objective, course
        self.work, self.identity, self.say, self.held_out_rows = work, identity, say, held_out
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer, self.levels = Optimizers(self.trained, optimizer), Levels(learned=objective.levels == "learned")
        self.original: Original | None = None
        self.balance = Balance(model) if model.config.is_moe and objective.balance_weight else None
        self.step, self.tokens, self.seconds, self.held_out = 0, 0, 0.0, math.nan
        self.best, self.best_step, self.best_tensors = math.inf, 0, self._copies()

    def close(self) -> None:
        """Leave the model without hooks."""
        if self.balance is not None:
            self.balance.remove()

    @property
    def done(self) -> float:
        """Share of the run."""
        return self.course.done(self.step, self.tokens)

    def pieces(self, rows: Sequence[Row]) -> list[tuple[Batch, list[int]]]:
        """Rows of similar lengths together, a few at a time: less padding, and less memory for activations.

        With each piece come its rows' places among `rows`.
        """
        config = self.model.config
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].prefix) + len(rows[i].canvas))
        found = list[tuple[Batch, list[int]]]()
        while order:
            longest = rows[order[-1]]
            n = len(longest.canvas) if self.objective.is_causal else config.canvas_length
            fit = max(_LEAST_ROWS, _PIECE // config.hidden_size // (len(longest.prefix) + n))
            places = order[-fit:]
            del order[-fit:]
            part = [rows[i] for i in places]
            n = max(len(row.canvas) for row in part) if self.objective.is_causal else n
            found.append((collate(part, config.pad_token_id, n), places))
        return found

    def measure(self, rows: Sequence[Row], seed: int, *, learn: bool) -> Measured:
        """Losses of rows, the mean over their pieces by rows; with `learn`, gradients are added up. Noise is the seed's."""
        generator = torch.Generator().manual_seed(seed)
        objective, levels = self.objective, self.levels
        if not learn:
            objective = replace(objective, narrow_share=0.0, growing_share=0.0, grow_until=0.0, prompt_dropout=0.0)
            levels = Levels(learned=False)
        elif objective.prompt_dropout:
            drops = (torch.rand(len(rows), generator=generator) < objective.prompt_dropout).tolist()
            rows = [dropped(row, drop) for row, drop in zip(rows, drops, strict=True)]
        sums, positions, exact = [0.0, 0.0, 0.0], 0, list[bool | None]([None] * len(rows))
        noted = list[tuple[Tensor, Tensor]]()
        for batch, places in self.pieces(rows):
            share = len(places) / len(rows)
            with torch.set_grad_enabled(learn), torch.autocast("cpu", torch.bfloat16, enabled=self.course.bfloat16):
                found = losses(
                    self.model, batch, self.policy, objective, generator, levels=levels, done=self.done, original=self.original
                )
                total = found.total(objective) * share
                if learn and self.balance is not None:
                    total = total + objective.balance_weight * self.balance.take() * share
            if learn:
                total.backward()
            for i, value in enumerate((total, found.diffusion * share, found.next_token * share)):
                sums[i] += float(value.detach())
            positions += batch.positions
            for place, right in zip(places, found.exact, strict=True):
                exact[place] = right
            noted.append(found.levels)
        for t, of_rows in noted:  # after all pieces, so that how rows are cut into them draws nothing else
            levels.learn(t, of_rows)
        return Measured(sums[0], sums[1], sums[2], positions, exact)

    def run(self) -> Outcome:
        """Train to the end, or until Ctrl-C.

        Raises:
            TrainingError: a loss is no number; the best tensors are those of this object then.
        """
        with flushed_denormals(), Records(self.work, self.step) as records:
            return self._run(records)

    def _run(self, records: Records) -> Outcome:
        last, saved = time.monotonic(), self.seconds
        if self.step == 0:
            self._evaluate()
            records.write({"step": 0, "tokens": 0, "held_out": round(self.held_out, 5)})
        with stopped_by_interrupt() as asked:
            while self.done < 1 and not asked.is_set():
                line = self._step()
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                if self.step % self.course.evaluate_every == 0 or self.done >= 1:
                    self._evaluate()
                    line["held_out"] = round(self.held_out, 5)
                records.write({**line, "seconds": round(self.seconds, 2)})
                if self.seconds - saved >= self.course.save_seconds or asked.is_set():
                    records.flush()
                    self.save()
                    saved = self.seconds
                left = self.seconds / self.done * (1 - self.done)
                self.say(Progress(self.step, self.done, self.seconds, left, line["loss"], self.held_out, self.best))
            if asked.is_set():  # what was trained since the last measurement counts too
                self._evaluate()
                self.save()
        tensors, stopped = self.best_tensors, self.done < 1
        return Outcome(tensors, self.best, self.best_step, self.step, self.tokens, self.seconds, stopped)

    def _step(self) -> dict[str, Any]:
        rows = self.source.rows(self.step)
        factor = self.optimizer.policy.factor(self.step, self.done)
        self.optimizer.zero_grad()
        found = self.measure(rows, self.course.seed * 1_000_003 + self.step, learn=True)
        norm = self.optimizer.clip()
        if not math.isfinite(found.loss) or not math.isfinite(norm):
            what = "gradient" if math.isfinite(found.loss) else "loss"
            places = ", ".join(sorted({f"{row.file}:{row.line}" for row in rows})[:8])
            raise TrainingError(f"step {self.step + 1}: the {what} is not a number (data: {places})")
        self.optimizer.step(factor)
        self.step, self.tokens = self.step + 1, self.tokens + found.positions
        learned = self.source.learned(rows, found.exact)
        parts = {key: round(getattr(found, key), 5) for key in ("loss", "diffusion", "next_token")}
        return {"step": self.step, "tokens": self.tokens, **parts, "rate": round(factor, 5), **learned}

    def _evaluate(self) -> None:
        """The held-out loss, with the same noise every time; keep the tensors where it is the lowest so far."""
        self.held_out = self.measure(self.held_out_rows, _HELD_OUT_SEED, learn=False).loss
        if self.held_out < self.best:
            self.best, self.best_step, self.best_tensors = self.held_out, self.step, self._copies()

    def _copies(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.trained.items()}

    def save(self) -> None:
        """Write the state, whole or not at all."""
        state = {
            "identity": json.dumps(self.identity, sort_keys=True),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "trained": {name: p.detach() for name, p in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "levels": self.levels.mean,
            "source": self.source.state(),
            "held_out": self.held_out,
            "best": self.best,
            "best_step": self.best_step,
            "best_tensors": self.best_tensors,
        }
        partial = self.work / (STATE + ".part")
        torch.save(state, partial)
        os.replace(partial, self.work / STATE)

    def resume(self) -> None:
        """Go on from the saved state; the log loses what came after it.

        Raises:
            CheckpointError: the state cannot be read, or was made with other options or data.
        """
        path = self.work / STATE
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: there is no state to continue from; leave out --resume") from None
        except Exception as error:
            raise CheckpointError(
                f"{path}: cannot be read ({(str(error).splitlines() or [''])[0]}); start again with another --out"
            ) from None
        made, now = (json.loads(text) for text in (state["identity"], json.dumps(self.identity)))
        if other := sorted(key for key in made | now if made.get(key) != now.get(key)):
            raise CheckpointError(
                f"{path}: was made with a different {other[0]}; give the same one, or another --out without --resume"
            )
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.levels.mean = state["levels"]
        self.source.restore(state["source"])
        self.step, self.tokens = state["step"], state["tokens"]
        self.seconds, self.held_out = state["seconds"], state["held_out"]
        self.best, self.best_step, self.best_tensors = state["best"], state["best_step"], state["best_tensors"]
        log = self.work / LOG
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        log.write_text("".join(kept), encoding="utf-8")


@contextmanager
def stopped_by_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts as ever."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
