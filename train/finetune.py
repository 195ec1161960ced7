"""Fine-tune a checkpoint on conversations, and merge an adapter: folders in, folders out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import sha256_file
from dgemma.core.staging import staging
from dgemma.model import checkpoint
from dgemma.train import data, lora
from dgemma.train.options import FinetuneOptions, Objective
from dgemma.train.original import Original
from dgemma.train.runs import Run, check_out, copy_texts, write_checkpoint
from dgemma.train.sources import Replayed


def finetuning(
    source: Path,
    path: Path,
    out: Path,
    speak: data.Speak,
    options: FinetuneOptions,
    *,
    replay: Path | None = None,
    resume: bool = False,
) -> Run:
    """A checked run: the data is read and every line of it usable.

    Args:
        source: checkpoint folder.
        path: conversations.
        out: folder to write; must not exist, unless a run there is resumed.
        speak: makes a conversation's ids; see `data`.
    Raises:
        CheckpointError, UsageError: naming file and line, tensor or option.
    """
    check_out(out, resume=resume)
    config, _ = checkpoint.read_config(source)
    rows, held_out = data.split(data.read(path, speak, config), options.held_out_share, options.seed)
    others = [replace(row, kept=True) for found in data.read(replay, speak, config) for row in found] if replay else []
    loaded = checkpoint.load(source)
    model, policy = loaded.model.requires_grad_(options.lora is None), loaded.sampler
    dtype = stored_dtype(loaded)
    if options.lora is not None:
        lora.attach(model, options.lora, options.seed)
    identity: dict[str, Any] = {
        **{f"--{name.replace('_', '-')}": value for name, value in asdict(options).items()},
        "checkpoint": hashlib.sha256("".join(sorted(loaded.files().values())).encode()).hexdigest(),
        "--data": sha256_file(path),
        "--replay": sha256_file(replay) if replay else None,
    }
    del identity["--save-seconds"]  # changes no result

    def write(tensors: dict[str, Tensor]) -> None:
        if options.lora is not None:
            lora.save(out, tensors, options.lora, str(source))
        else:
            write_checkpoint(out, model, policy, tensors, source, dtype)

    steps = options.steps_for(len(rows))
    return Run(
        out=out, model=model, policy=policy,
        source=Replayed(rows, others, options.batch, options.replay_share, options.seed),
        held_out=held_out, objective=Objective(), optimizer=options.optimizer(steps, config.hidden_size),
        course=options.course(steps), identity=identity, settings=identity, write=write, resumed=resume,
        cure="use a lower --rate", original=Original(model, options.replay_weight) if others else None,
    )  # fmt: skip


def stored_dtype(loaded: checkpoint.Checkpoint) -> torch.dtype:
    """Of the checkpoint's first matrix; what is written has it too."""
    from safetensors import safe_open

    stored = next(iter(loaded.stored.tensors.values()))
    with safe_open(loaded.folder / stored.file, framework="pt") as file:
        return {"BF16": torch.bfloat16, "F16": torch.float16}.get(file.get_slice(stored.name).get_dtype(), torch.float32)


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
        checkpoint.save(stage, loaded.model, loaded.sampler, dtype=stored_dtype(loaded))
    return changed
