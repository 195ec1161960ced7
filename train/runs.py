"""A checked run of any kind: what it costs, its loop, and the folder that it writes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma.core import memory
from dgemma.core.errors import CheckpointError, TrainingError, UsageError
from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.hf_config import CONFIG, GENERATION, write_json
from dgemma.train.data import Row
from dgemma.train.loop import STATE, Loop, Outcome, Progress, flushed_denormals
from dgemma.train.options import Course, Objective, Optimizer
from dgemma.train.original import Original
from dgemma.train.records import LOG
from dgemma.train.sources import Source

TRAINING, SETTINGS = "training", "config.json"
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".part")


@dataclass(frozen=True)
class Plan:
    """What a run takes: bytes of weights, gradients, moments and the best tensors; FLOPs of the matrices' products and seconds
    of a step, None where it does not fit into memory."""

    steps: int
    tokens: int
    rows: int | None
    held_out: int
    parameters: int
    trained: int
    state_bytes: int
    step_flops: float
    step_seconds: float | None


@dataclass
class Run:
    """What a loop needs, and how its result is written.

    Args:
        settings: written beside the log as the run begins.
        write: writes the result's files into `out` from the trained tensors.
        cure: what to do about a loss that is NaN or infinite.
        original: what replayed rows are compared with, where there are any.
    """

    out: Path
    model: Denoiser
    policy: SamplerConfig
    source: Source
    held_out: Sequence[Row]
    objective: Objective
    optimizer: Optimizer
    course: Course
    identity: dict[str, Any]
    settings: dict[str, Any]
    write: Callable[[dict[str, Tensor]], None]
    resumed: bool
    cure: str
    kind: type[Loop] = Loop
    original: Original | None = None

    def loop(self, work: Path, say: Callable[[Progress], None] = lambda progress: None) -> Loop:
        loop = self.kind(
            self.model, self.policy, self.source, self.held_out, self.objective, self.optimizer, self.course, work,
            self.identity, say,
        )  # fmt: skip
        loop.original = self.original
        return loop

    def plan(self, timed: int = 2) -> Plan:
        """Count, and time some steps on this machine; nothing is written and the model is as before."""
        parameters = sum(p.numel() for p in self.model.parameters())
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        copied = self.original.copied if self.original else 0
        state = 4 * (parameters + 4 * trained + copied)  # float32; gradient, two moments, the best tensors beside the weights
        free, seconds = memory.available(), None
        loop = self.loop(Path())
        rows = [self.source.rows(step) for step in range(8)]
        pieces = [loop.pieces(taken) for taken in rows]
        positions = [sum(batch.positions for batch, _ in found) for found in pieces]
        mean = sum(positions) / len(positions)
        encoded = sum(batch.encoded(self.model.config.pad_token_id) for found in pieces for batch, _ in found) / len(pieces)
        if free is None or state < free:
            with flushed_denormals():
                speeds = [_timed(loop, rows[step]) / positions[step] for step in range(timed)]
            seconds = min(speeds) * mean
        loop.close()
        steps = self.course.steps or max(1, round((self.course.tokens or 0) / mean))
        return Plan(
            steps, round(steps * mean), self.source.size, len(self.held_out), parameters, trained, state,
            2.0 * parameters * self._passes(len(rows[0]), encoded, is_frozen=trained < parameters), seconds,
        )  # fmt: skip

    def _passes(self, rows: int, encoded: float, *, is_frozen: bool) -> float:
        """Positions that a step of so many rows sends through the matrices, gradients' products counted as such."""
        times = 2 if is_frozen else 3  # an adapter needs no products for the gradients of the weights
        canvases = 0 if self.objective.is_causal else rows * self.model.config.canvas_length
        return times * (encoded + canvases) + canvases * (1 - self.objective.first_step_share)

    def run(self, say: Callable[[Progress], None] = lambda progress: None) -> Outcome:
        """Train, and write the folder; log, picture and state are in its folder training.

        Raises:
            TrainingError: a loss is no number; the best weights until then are written.
            CheckpointError: there is nothing to go on from, or the folder cannot be written.
        """
        work = self.out / TRAINING
        loop = self.loop(work, say)
        if self.resumed:
            loop.resume()
        else:
            try:
                work.mkdir(parents=True)
                write_json(work / SETTINGS, self.settings)
            except OSError as error:
                reason = error.strerror or error
                raise CheckpointError(f"{self.out}: cannot be written ({reason}); choose another folder") from None
        try:
            outcome = loop.run()
        except TrainingError as error:
            self.write(loop.best_tensors)
            kept = f"the weights of step {loop.best_step} are in {self.out}, the log in {work / LOG}"
            raise TrainingError(f"{error}; {kept}; {self.cure}") from None
        loop.close()
        self.write(outcome.tensors)
        if not outcome.stopped:
            (work / STATE).unlink(missing_ok=True)
        return outcome


def check_out(out: Path, *, resume: bool) -> None:
    """Refuse a folder that is there, unless a run in it is resumed; raises UsageError."""
    if not resume and out.exists():
        raise UsageError(f"--out {out}: exists already; choose another folder, or continue from its state with --resume")


def _timed(loop: Loop, rows: Sequence[Row]) -> float:
    """Seconds of one step's losses and gradients."""
    begun = time.perf_counter()
    loop.measure(rows, 0, learn=True)
    loop.optimizer.zero_grad()
    return time.perf_counter() - begun


def write_checkpoint(
    out: Path, model: Denoiser, policy: SamplerConfig, tensors: dict[str, Tensor], texts: Path, dtype: torch.dtype
) -> None:
    """Write the trained tensors as a checkpoint, with what lies beside the weights in `texts`; raises CheckpointError."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[name])
    copy_texts(texts, out)
    checkpoint.save(out, model, policy, dtype=dtype)


def copy_texts(source: Path, out: Path) -> None:
    """Copy what lies beside the weights: tokenizer, template, licence and the like; raises CheckpointError."""
    try:
        for path in sorted(source.iterdir()):
            if path.is_file() and path.name not in (CONFIG, GENERATION) and not path.name.endswith(_WEIGHTS):
                shutil.copyfile(path, out / path.name)
        if (templates := source / "additional_chat_templates").is_dir():
            shutil.copytree(templates, out / templates.name, dirs_exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written ({error.strerror or error}); free some space") from None
