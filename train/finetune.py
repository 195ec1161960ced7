"""Fine-tune a checkpoint on conversations, and merge an adapter: folders in, folders out."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dgemma.core import memory
from dgemma.core.errors import CheckpointError, TrainingError, UsageError
from dgemma.core.manifest import sha256_file
from dgemma.core.staging import staging
from dgemma.model import checkpoint
from dgemma.model.hf_config import CONFIG, GENERATION
from dgemma.train import data, lora
from dgemma.train.loop import LOG, STATE, Loop, Outcome, Progress, flushed_denormals
from dgemma.train.options import FinetuneOptions

TRAINING = "training"
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".part")


@dataclass(frozen=True)
class Plan:
    """What a run takes: bytes of weights, gradients, Adam and the best tensors; FLOPs of the matrices' products and seconds of
    a step, None where it does not fit into memory."""

    steps: int
    rows: int
    held_out: int
    parameters: int
    trained: int
    state_bytes: int
    step_flops: float
    step_seconds: float | None


class Finetuning:
    """A checked run: the data is read and every line of it usable.

    Args:
        source: checkpoint folder.
        out: folder to write; must not exist, unless a run there is resumed.
        speak: makes a conversation's ids; see `data`.
    Raises:
        CheckpointError, UsageError: naming file and line, tensor or option.
    """

    def __init__(
        self,
        source: Path,
        path: Path,
        out: Path,
        speak: data.Speak,
        options: FinetuneOptions,
        *,
        replay: Path | None = None,
        resume: bool = False,
    ) -> None:
        if not resume and out.exists():
            raise UsageError(f"--out {out}: exists already; choose another folder, or go on from its state with --resume")
        self.source, self.out, self.options, self.resumed = source, out, options, resume
        config, _ = checkpoint.read_config(source)
        self.parts = data.split(data.read(path, speak, config), options.held_out_share, options.seed)
        self.replay = [row for rows in data.read(replay, speak, config) for row in rows] if replay else []
        loaded = checkpoint.load(source)
        self.model, self.policy = loaded.model.requires_grad_(options.lora is None), loaded.sampler
        self.dtype = _stored_dtype(loaded)
        self.before = hashlib.sha256("".join(sorted(loaded.files().values())).encode()).hexdigest()
        if options.lora is not None:
            lora.attach(self.model, options.lora, options.seed)
        self.identity: dict[str, Any] = {
            **{f"--{name.replace('_', '-')}": value for name, value in asdict(options).items()},
            "checkpoint": self.before,
            "--data": sha256_file(path),
            "--replay": sha256_file(replay) if replay else None,
        }
        for free in ("--save-seconds",):  # changes no result
            del self.identity[free]

    def plan(self) -> Plan:
        """Count, and time one step on this machine; nothing is written and the model is as before."""
        sizes = [p.numel() for p in self.model.parameters()]
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        state = 4 * (sum(sizes) + 4 * trained)  # float32; gradient, two moments and the best tensors beside the weights
        rows, n = self.parts[0], self.model.config.canvas_length
        prefix = sum(len(row.prefix) for row in rows) / len(rows)
        backward = 1 if self.options.lora else 2  # an adapter needs no products for the gradients of the weights
        passes = (1 + backward) * (prefix + 2 * n) + n * (1 - self.options.first_step_share)
        free, seconds = memory.available(), None
        if free is None or state < free:
            loop = Loop(self.model, self.policy, self.options, self.parts, self.replay, Path(), {})
            with flushed_denormals():
                seconds = min(_timed(loop) for _ in range(2))
        return Plan(
            self.options.steps_for(len(rows)), len(rows), len(self.parts[1]), sum(sizes), trained, state,
            2.0 * sum(sizes) * passes * self.options.batch, seconds,
        )  # fmt: skip

    def run(self, say: Callable[[Progress], None] = lambda progress: None) -> Outcome:
        """Train, and write the folder: a checkpoint, or with `lora` an adapter; log and state are in its folder training.

        Raises:
            TrainingError: a loss is no number; the best weights until then are written.
            CheckpointError: there is nothing to go on from, or the folder cannot be written.
        """
        work = self.out / TRAINING
        try:
            work.mkdir(parents=True, exist_ok=self.resumed)
        except OSError as error:
            raise CheckpointError(f"{self.out}: cannot be written ({error.strerror or error}); choose another folder") from None
        loop = Loop(self.model, self.policy, self.options, self.parts, self.replay, work, self.identity, say)
        if self.resumed:
            loop.resume()
        try:
            outcome = loop.run()
        except TrainingError as error:
            self._write(loop.best_tensors)
            cure = f"the weights of step {loop.best_step} are in {self.out}, the log in {work / LOG}; use a lower --rate"
            raise TrainingError(f"{error}; {cure}") from None
        self._write(outcome.tensors)
        if not outcome.stopped:
            (work / STATE).unlink(missing_ok=True)
        return outcome

    def _write(self, tensors: dict[str, torch.Tensor]) -> None:
        if self.options.lora is not None:
            lora.save(self.out, tensors, self.options.lora, str(self.source))
            return
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[name])
        copy_texts(self.source, self.out)
        checkpoint.save(self.out, self.model, self.policy, dtype=self.dtype)


def _timed(loop: Loop) -> float:
    """Seconds of one step's losses and gradients."""
    begun = time.perf_counter()
    loop.measure(loop.rows(0), 0, learn=True)
    loop.optimizer.zero_grad()
    return time.perf_counter() - begun


def _stored_dtype(loaded: checkpoint.Checkpoint) -> torch.dtype:
    """Of the checkpoint's first matrix; what is written has it too."""
    from safetensors import safe_open

    stored = next(iter(loaded.stored.tensors.values()))
    with safe_open(loaded.folder / stored.file, framework="pt") as file:
        return {"BF16": torch.bfloat16, "F16": torch.float16}.get(file.get_slice(stored.name).get_dtype(), torch.float32)


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


def merge(source: Path, adapter: Path, out: Path) -> int:
    """Write the checkpoint with an adapter's products added to its weights; how many matrices they changed.

    Raises:
        CheckpointError, UsageError: the folders do not fit, or `out` exists.
    """
    if out.exists():
        raise UsageError(f"--out {out}: exists already; choose another folder")
    loaded = checkpoint.load(source)
    changed = lora.merge(loaded.model, adapter)
    with staging(out, CheckpointError, "merge") as stage:
        copy_texts(source, stage)
        checkpoint.save(stage, loaded.model, loaded.sampler, dtype=_stored_dtype(loaded))
    return changed
