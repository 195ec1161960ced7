"""The loop over steps: it trains what has gradients, measures, logs and saves, and goes on from a saved state bit for bit.

Order and noise of a step are drawn from generators seeded by its number, so a state needs none of theirs.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma.core.errors import CheckpointError, TrainingError
from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import Denoiser
from dgemma.train.data import Batch, Order, Row, collate
from dgemma.train.objective import losses
from dgemma.train.options import FinetuneOptions

STATE, LOG = "state.pt", "log.jsonl"
_HELD_OUT_SEED = 2**60  # beyond the seeds of steps
_PIECE = 4  # rows


@dataclass(frozen=True)
class Progress:
    """After `step` of `steps`: seconds of training so far and left, the last loss, the last held-out one and the best."""

    step: int
    steps: int
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
    steps: int
    stopped: bool


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
        work: folder of state and log; it exists.
        identity: what a state must have been made with, to be gone on from.
        say: called after every step.
    """

    def __init__(
        self,
        model: Denoiser,
        policy: SamplerConfig,
        options: FinetuneOptions,
        parts: tuple[Sequence[Row], Sequence[Row]],
        replay: Sequence[Row],
        work: Path,
        identity: dict[str, Any],
        say: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.model, self.policy, self.options, self.work, self.identity, self.say = model, policy, options, work, identity, say
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.steps = options.steps_for(len(parts[0]))
        self.rate = options.rate_for(model.config.hidden_size)
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=self.rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.own = round(options.batch * (1 - options.replay_share)) if replay else options.batch
        self.data, self.replay = Order(parts[0], options.seed), Order(replay, options.seed)
        self.held_out_rows = parts[1]
        self.step, self.seconds, self.held_out = 0, 0.0, math.nan
        self.best, self.best_step, self.best_tensors = math.inf, 0, self._copies()

    def rows(self, step: int) -> list[Row]:
        """The rows of a step, those of the replay data last."""
        others = self.options.batch - self.own
        return self.data.take(step * self.own, self.own) + (self.replay.take(step * others, others) if others else [])

    def pieces(self, rows: Sequence[Row]) -> list[Batch]:
        """Rows of similar lengths together, a few at a time: less padding, and less memory for activations."""
        ordered = sorted(rows, key=lambda row: len(row.prefix))
        parts = [ordered[start : start + _PIECE] for start in range(0, len(ordered), _PIECE)]
        return [collate(part, self.model.config.pad_token_id) for part in parts]

    def measure(self, rows: Sequence[Row], seed: int, *, learn: bool) -> dict[str, float]:
        """Losses of rows, the mean over their pieces by rows; with `learn`, gradients are added up. Noise is the seed's."""
        generator = torch.Generator().manual_seed(seed)
        sums = {"loss": 0.0, "diffusion": 0.0, "next_token": 0.0}
        for batch in self.pieces(rows):
            share = len(batch.lines) / len(rows)
            with torch.set_grad_enabled(learn):
                found = losses(self.model, batch, self.policy, self.options, generator)
                total = found.total(self.options) * share
            if learn:
                total.backward()
            for key, value in (
                ("loss", total),
                ("diffusion", found.diffusion * share),
                ("next_token", found.next_token * share),
            ):
                sums[key] += float(value.detach())
        return sums

    def run(self) -> Outcome:
        """Train to the last step, or until Ctrl-C.

        Raises:
            TrainingError: a loss is no number; the best tensors are those of this object then.
        """
        with flushed_denormals():
            return self._run()

    def _run(self) -> Outcome:
        last, saved = time.monotonic(), self.seconds
        if self.step == 0:
            self._evaluate()
        with stopped_by_interrupt() as asked, (self.work / LOG).open("a", encoding="utf-8") as log:
            while self.step < self.steps and not asked.is_set():
                line = self._step()
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                if self.step % self.options.evaluate_every == 0 or self.step == self.steps:
                    self._evaluate()
                    line["held_out"] = round(self.held_out, 5)
                log.write(json.dumps({**line, "seconds": round(self.seconds, 2)}) + "\n")
                if self.seconds - saved >= self.options.save_seconds or asked.is_set():
                    log.flush()
                    self.save()
                    saved = self.seconds
                left = self.seconds / self.step * (self.steps - self.step)
                self.say(Progress(self.step, self.steps, self.seconds, left, line["loss"], self.held_out, self.best))
            if asked.is_set():  # what was trained since the last measurement counts too
                self._evaluate()
                self.save()
        return Outcome(self.best_tensors, self.best, self.best_step, self.step, self.steps, self.step < self.steps)

    def _step(self) -> dict[str, Any]:
        rows = self.rows(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * self.options.factor(self.step, self.steps)
        self.optimizer.zero_grad()
        found = self.measure(rows, self.options.seed * 1_000_003 + self.step, learn=True)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0))
        if not math.isfinite(found["loss"]) or not math.isfinite(norm):
            what = "gradient" if math.isfinite(found["loss"]) else "loss"
            lines = ", ".join(map(str, sorted({row.line for row in rows[: self.own]})[:8]))
            raise TrainingError(f"step {self.step + 1}: the {what} is not a number (lines {lines} of the data)")
        self.optimizer.step()
        self.step += 1
        return {"step": self.step, **{key: round(value, 5) for key, value in found.items()}}

    def _evaluate(self) -> None:
        """The held-out loss, with the same noise every time; keep the tensors where it is the lowest so far."""
        self.held_out = self.measure(self.held_out_rows, _HELD_OUT_SEED, learn=False)["loss"]
        if self.held_out < self.best:
            self.best, self.best_step, self.best_tensors = self.held_out, self.step, self._copies()

    def _copies(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.trained.items()}

    def save(self) -> None:
        """Write the state, whole or not at all."""
        state = {
            "identity": json.dumps(self.identity, sort_keys=True),
            "step": self.step,
            "seconds": self.seconds,
            "trained": {name: p.detach() for name, p in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
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
            raise CheckpointError(f"{path}: there is no state to go on from; leave out --resume, with another --out") from None
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read ({(str(error).splitlines() or [''])[0]}); start again") from None
        made, now = json.loads(state["identity"]), self.identity
        if other := sorted(key for key in made | now if made.get(key) != now.get(key)):
            raise CheckpointError(f"{path}: was made with another {other[0]}; give the same, or another --out without --resume")
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.held_out = state["step"], state["seconds"], state["held_out"]
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
