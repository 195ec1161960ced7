"""`dgemma adapt`: a causal checkpoint becomes a denoiser that still decodes token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.options import TorchThreadsOption


def run(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help="Folder of a causal Gemma 4 model, or id of a downloaded hub model.")
    ],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Conversations: JSON lines with messages.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Checkpoint folder to write; must not exist.")],
    tokens: Annotated[int, typer.Option("--tokens", metavar="K", help="Positions to train on, of prefixes and canvases.")],
    canvas: Annotated[int, typer.Option("--canvas", metavar="N", help="Canvas length in positions.")] = 256,
    held_out: Annotated[
        Path | None,
        typer.Option("--held-out", metavar="FILE", help="Conversations for the held-out loss. Default: a fiftieth of --data."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="B", help="Canvases per step.")] = 32,
    rate: Annotated[float, typer.Option("--rate", metavar="X", help="Peak learning rate of Muon.")] = 0.01,
    grow_until: Annotated[
        float, typer.Option("--grow-until", metavar="X", help="Share of the run over which canvases grow from 1 position to N.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of order and noise, 0 to 2^32-1.")] = 0,
    threads: TorchThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the state in --out, with the same options.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data, print memory, FLOPs and time; write nothing.")
    ] = False,
) -> int:
    from dgemma.cli.training_run import carried_out
    from dgemma.model.hub import folder_of
    from dgemma.train.adapt import adapting

    config = adapting(
        folder_of(checkpoint), data, tokens=tokens, canvas=canvas, held_out=held_out, batch=batch, rate=rate,
        grow_until=grow_until, seed=seed,
    )  # fmt: skip
    return carried_out(config, out, threads=threads, resume=resume, dry_run=dry_run)
