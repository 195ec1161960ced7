"""`dgemma quantize`: a checkpoint, or a preset with random weights, to a quantized checkpoint."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


def run(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="Checkpoint folder, or a preset: 2b, 9b, 26b-a4b.")],
    recipe: Annotated[str, typer.Option("--recipe", help="w8, w4-mixed, w4, w4-all, or a file NAME.json.")],
    out: Annotated[Path, typer.Option("--out", help="Quantized checkpoint to write; must not exist.")],
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Prompts to calibrate on (gptq): .jsonl with prompt_ids.")
    ] = None,
    random_weights: Annotated[int | None, typer.Option("--random-weights", help="Seed of random weights.")] = None,
) -> int:
    from dgemma.quantize.recipes import find
    from dgemma.quantize.write_store import write_store

    with _lines() as say:
        made = write_store(checkpoint, out, find(recipe), random_seed=random_weights, prompts=calibration, progress=say)
    size = sum(entry["size"] for entry in made["files"].values())
    # Linux counts kilobytes, macOS bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{out}: {size / 1e6:.1f} MB, {made['bits_per_weight']:.2f} bits per weight, peak memory {peak / 1e9:.2f} GB")
    return 0


@contextmanager
def _lines() -> Iterator[Callable[[str], None]]:
    """Show what is done: in place on a terminal, a plain line each elsewhere."""
    start = time.monotonic()
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield lambda line: status.update(f"{time.monotonic() - start:6.1f} s  {line}")
    else:
        yield lambda line: print(f"{time.monotonic() - start:6.1f} s  {line}", file=sys.stderr, flush=True)
