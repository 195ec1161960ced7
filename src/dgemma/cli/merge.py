"""`dgemma merge`: a checkpoint and a LoRA adapter merged into one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="Checkpoint folder that the adapter was trained on.")],
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder that `dgemma finetune --lora` wrote.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Checkpoint folder to write; must not exist.")],
) -> None:
    from dgemma.model.hub import folder_of
    from dgemma.train.finetune import merge

    changed = merge(folder_of(checkpoint), adapter, out)
    print(f"{out}: {changed} matrices changed")
