"""`dgemma finetune`: a checkpoint fine-tuned on conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.options import TorchThreadsOption
from dgemma.core.progress import notes


def run(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="Checkpoint folder, or id of a downloaded hub model.")],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Conversations: JSON lines with messages.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; must not exist.")],
    lora: Annotated[
        int | None, typer.Option("--lora", metavar="R", help="Train a LoRA adapter of rank R instead of all weights.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="FILE", help="Conversations that make up half of every batch, against forgetting."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="K", help="Optimizer steps. Default: three passes over the data, at least 900."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="B", help="Canvases per step.")] = 8,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", metavar="X", help="Peak learning rate. Default: 3.2e-5 (--lora: 3.5e-4) at width 2000, more if narrower."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of order, noise and adapter, 0 to 2^32-1.")] = 0,
    threads: TorchThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the state in --out, with the same options.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data, print memory, FLOPs and time; write nothing.")
    ] = False,
) -> int:
    from dgemma.cli.checkpoint_text import CheckpointText
    from dgemma.cli.training_run import gone_through, set_threads
    from dgemma.model.hub import folder_of
    from dgemma.train.finetune import finetuning
    from dgemma.train.options import FinetuneOptions

    options = FinetuneOptions(lora=lora, steps=steps, batch=batch, rate=rate, seed=seed)
    set_threads(threads)
    source = folder_of(checkpoint)
    text = CheckpointText(source)
    notes(text.notes)
    run = finetuning(source, data, out, text.exchanges, options, replay=replay, resume=resume)
    if replay is None:
        notes(["without --replay, the checkpoint may forget what --data does not show"])
    return gone_through(run, "adapter" if lora else "checkpoint", dry_run=dry_run)
