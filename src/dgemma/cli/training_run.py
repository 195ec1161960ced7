"""What the training commands share: running a training, and for `train` and `adapt`, setting it up from a config."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dgemma.cli.training_told import plan_lines, told
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.interrupts import INTERRUPTED
from dgemma.core.progress import notes, stages

if TYPE_CHECKING:
    from dgemma.core.config import ModelConfig
    from dgemma.train.config import TrainConfig
    from dgemma.train.runs import Run

# What of a tokenizer's folder belongs to the checkpoint.
_TEXTS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "LICENSE",
)  # fmt: skip

_LONG = 4_000_000  # bytes of data, which take seconds to read


def carried_out(config: TrainConfig, out: Path, *, threads: int | None, resume: bool, dry_run: bool) -> int:
    """Train, or tell what it would take; the exit status. Raises DgemmaError."""
    from dgemma.cli.checkpoint_text import CheckpointText
    from dgemma.train.training import training

    set_threads(config.run.threads if threads is None else threads)
    with TemporaryDirectory() as made:
        texts = Path(made)
        shape = prepare(config, texts)
        text = CheckpointText(texts)
        notes(text.notes)
        with stages() as say:
            if sum(path.stat().st_size for path in config.data.files if path.is_file()) > _LONG:
                say("reading the data")
            run = training(config, shape, texts, out, text.exchanges, resume=resume)
            if dry_run:
                say("timing steps")
                plan = run.plan()
            else:
                outcome = run.run(told(say, config.run.evaluate_every))
    if dry_run:
        print("\n".join(plan_lines(plan)))
        return 0
    print(f"{out}: checkpoint of step {outcome.best_step}, held-out loss {outcome.held_out:.4f}, {outcome.tokens:,} tokens")
    if outcome.stopped:
        print(f"stopped at step {outcome.step}; continue with --resume")
        return INTERRUPTED
    return 0


def gone_through(run: Run, kind: str, more: str = "", *, dry_run: bool) -> int:
    """Train, or tell what it would take; the exit status. Raises DgemmaError.

    `kind`: of result; `more`: what is said of it.
    """
    if dry_run:
        with stages() as say:
            say("timing steps")
            plan = run.plan()
        print("\n".join(plan_lines(plan)))
        return 0
    with stages() as say:
        outcome = run.run(told(say, run.course.evaluate_every))
    print(f"{run.out}: {kind} of step {outcome.best_step}{more}, held-out loss {outcome.held_out:.4f}")
    if outcome.stopped:
        print(f"stopped at step {outcome.step} of {run.course.steps}; continue with --resume")
        return INTERRUPTED
    return 0


def set_threads(threads: int | None) -> None:
    """Make torch use that many; raises UsageError."""
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"--threads {threads}: must be at least 1")
    import torch

    torch.set_num_threads(threads)


def prepare(config: TrainConfig, folder: Path) -> ModelConfig:
    """Write what stands beside the weights, and the configs, into a folder; the model's shape.

    Raises CheckpointError, UsageError.
    """
    from dgemma.export.tokenizer import read_tokenizer
    from dgemma.model.checkpoint import write_config
    from dgemma.train.training import shape_of

    model = config.model
    named = model.tokenizer or model.init
    if named is None:
        raise UsageError("model.tokenizer is missing; name a tokenizer.model or tokenizer.json, or their folder")
    source = named if named.is_dir() or named == model.init else named.parent
    wanted = [name for name in _TEXTS if named.is_dir() or named == model.init or not name.startswith("tokenizer.")]
    if not (named.is_dir() or named.is_file()):
        raise UsageError(f"model.tokenizer {named}: no such file or folder")
    for path in [source / name for name in wanted] + ([named] if named.is_file() else []):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    if (found := read_tokenizer(folder)) is None:
        raise CheckpointError(f"{named}: is not tokenizer.json, tokenizer.model or a folder with one; name one of these")
    if model.init is None:
        shape = model.config(found.spec.vocab_size)
    else:
        shape = shape_of(model.init, model.shape.get("canvas_length"))
    write_config(folder, shape, config.sampler)
    return shape
