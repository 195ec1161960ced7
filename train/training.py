"""Train a checkpoint from scratch, from another's weights, or from a causal model's: policies and folders in, a folder out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import sha256_file
from dgemma.model import causal, checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.hf_config import read_json
from dgemma.train import data
from dgemma.train.config import TrainConfig, plain
from dgemma.train.optimizers import initialize
from dgemma.train.runs import SETTINGS, TRAINING, Run, check_out, write_checkpoint
from dgemma.train.sources import Grouped, Source

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CANVAS = 256
_TIMED = 6  # steps that minutes are reckoned by


def training(
    config: TrainConfig, shape: ModelConfig, texts: Path, out: Path, speak: data.Speak, *, resume: bool = False
) -> Run:
    """A checked run: the data is read and every line of it usable.

    Args:
        shape: of the model, `config.model.config` of its tokenizer's size, or that of `init`.
        texts: folder of what is copied beside the weights.
        out: folder to write; must not exist, unless a run there is resumed.
        speak: makes a conversation's ids; see `data`.
    Raises:
        CheckpointError, UsageError: naming file and line, or key.
    """
    check_out(out, resume=resume)
    if config.model.dtype not in _DTYPES:
        raise UsageError(f"model.dtype {config.model.dtype!r}: must be {' or '.join(_DTYPES)}")
    source, held_out = _data(config, shape, speak)
    model = begin(shape, config.model.init, config.run.seed)
    identity = _identity(config, shape, texts)

    def write(tensors: dict[str, Tensor]) -> None:
        write_checkpoint(out, model, config.sampler, tensors, texts, _DTYPES[config.model.dtype])

    run = Run(
        out=out, model=model, policy=config.sampler, source=source, held_out=held_out, objective=config.objective,
        optimizer=config.optimizer, course=config.run.course(1), identity=identity, settings={}, write=write, resumed=resume,
        cure="use lower rates in [optimizer]",
    )  # fmt: skip
    if config.run.minutes is not None:
        run.course = config.run.course(_tokens(run, config.run.minutes))
    parameters = sum(p.numel() for p in model.parameters())
    run.settings = {"config": plain(config), "course": plain(run.course), "parameters": parameters}
    return run


def shape_of(init: Path, canvas_length: int | None) -> ModelConfig:
    """The shape that training from a checkpoint has; of a causal one with canvases of the given length.

    Raises CheckpointError, UsageError.
    """
    if causal.is_causal(init):
        return causal.read_causal_config(init, canvas_length or _CANVAS)
    shape, _ = checkpoint.read_config(init)
    if canvas_length not in (None, shape.canvas_length):
        raise UsageError(f"model.canvas_length {canvas_length}: {init} has {shape.canvas_length}; leave it out")
    return shape


def begin(shape: ModelConfig, init: Path | None, seed: int) -> Denoiser:
    """The model as training begins: the weights of a checkpoint or of a causal one, or random ones; raises CheckpointError."""
    generator = torch.Generator().manual_seed(seed)
    if init is None:
        model = Denoiser(shape)
        initialize(model, generator)
        return model
    if causal.is_causal(init):
        return causal.load_causal(init, shape.canvas_length, generator)
    model = checkpoint.load(init).model
    return model.requires_grad_(True).train()


def _data(config: TrainConfig, shape: ModelConfig, speak: data.Speak) -> tuple[Source, list[data.Row]]:
    """Where rows come from, and those that are held out."""
    whole, run = config.objective.is_causal, config.run
    if config.data.tasks is not None:
        from dgemma.train.tiny.source import Exercises

        exercises = Exercises(speak, shape, run.batch, run.seed, whole=whole)
        return exercises, exercises.held_out()
    found = [rows for path in config.data.files for rows in data.read(path, speak, shape, whole=whole)]
    if isinstance(config.data.held_out, Path):
        others = data.read(config.data.held_out, speak, shape, whole=whole)
        rows, held_out = [row for part in found for row in part], [row for part in others for row in part]
    else:
        rows, held_out = data.split(found, config.data.held_out, run.seed)
    return Grouped(rows, run.batch, run.seed), data.thinned(held_out)


def _identity(config: TrainConfig, shape: ModelConfig, texts: Path) -> dict[str, Any]:
    """What decides a result, by the keys that say it."""
    sections = plain(replace(config, run=replace(config.run, save_seconds=0.0, threads=None)))
    files = [*config.data.files, *([config.data.held_out] if isinstance(config.data.held_out, Path) else [])]
    beside = sorted(path for path in texts.iterdir() if path.is_file())
    if config.model.init is not None:
        beside += sorted(config.model.init.glob("*.safetensors"))
    return {
        **{f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()},
        "model": shape.to_dict(),
        "data.files": [sha256_file(path) for path in files],
        "data.held_out": config.data.held_out if isinstance(config.data.held_out, float) else "file",
        "tokenizer or weights": hashlib.sha256("".join(sha256_file(path) for path in beside).encode()).hexdigest(),
    }


def _tokens(run: Run, minutes: float) -> int:
    """What so many minutes come to: timed once, and read again from a run that is resumed."""
    if run.resumed:
        kept = run.out / TRAINING / SETTINGS
        try:
            return int(read_json(kept)["course"]["tokens"])
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f"{kept}: does not say how many tokens the minutes came to; start again with another --out"
            ) from None
    plan = run.plan(timed=_TIMED)
    if plan.step_seconds is None:
        raise UsageError("run.minutes: no step can be timed, as the run needs more memory than is free; give run.tokens")
    return max(1, round(minutes * 60 / plan.step_seconds * plan.tokens / plan.steps))
