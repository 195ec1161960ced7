"""`dgemma train`: a checkpoint from scratch, following a config file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.options import TorchThreadsOption


def run(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file; see docs/guides/train.md.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Checkpoint folder to write; must not exist.")],
    threads: TorchThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the state in --out, with the same file.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data, print memory, FLOPs and time; write nothing.")
    ] = False,
) -> int:
    from dgemma.cli.training_run import carried_out
    from dgemma.train import config as files

    return carried_out(files.read(config_file), out, threads=threads, resume=resume, dry_run=dry_run)
