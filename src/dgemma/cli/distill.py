"""`dgemma distill`: a checkpoint that needs a few denoising steps where its teacher needs many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.options import TorchThreadsOption
from dgemma.core.progress import notes


def run(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help="The teacher: a checkpoint folder, or id of a downloaded hub model.")
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Conversations, for their prompts: JSON lines with messages.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; must not exist.")],
    student: Annotated[
        str | None, typer.Option("--student", metavar="CKPT", help="Checkpoint to start from. Default: the teacher.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="K", help="Most denoising steps per canvas.")] = 4,
    entropy_bound: Annotated[
        float | None, typer.Option("--entropy-bound", metavar="X", help="Entropy bound of the result. Default: the teacher's.")
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option("--temperature", metavar="A:B", help="First and last temperature of the result. Default: the teacher's."),
    ] = None,
    updates: Annotated[int, typer.Option("--updates", metavar="U", help="Optimizer steps.")] = 2000,
    batch: Annotated[int, typer.Option("--batch", metavar="B", help="Canvases per optimizer step.")] = 32,
    rate: Annotated[float, typer.Option("--rate", metavar="X", help="Peak learning rate.")] = 1.5e-3,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of order and noise, 0 to 2^32-1.")] = 0,
    threads: TorchThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the state in --out, with the same options.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data, print memory, FLOPs and time; write nothing.")
    ] = False,
) -> int:
    from dgemma.cli.checkpoint_text import CheckpointText
    from dgemma.cli.training_run import gone_through, set_threads
    from dgemma.model.hub import folder_of
    from dgemma.train.distill import DistillOptions, distilling, read_temperature

    options = DistillOptions(
        denoising_steps=steps, entropy_bound=entropy_bound, temperature=read_temperature(temperature),
        steps=updates, batch=batch, rate=rate, seed=seed,
    )  # fmt: skip
    set_threads(threads)
    source = folder_of(checkpoint)
    text = CheckpointText(source)
    notes(text.notes)
    run = distilling(source, data, out, text.exchanges, options, begin=folder_of(student) if student else None, resume=resume)
    return gone_through(run, "checkpoint", f", {steps} denoising steps", dry_run=dry_run)
