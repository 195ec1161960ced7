"""`dgemma quantize`: a checkpoint, or a preset with random weights, to a quantized checkpoint."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Annotated

import typer

from dgemma.core.progress import notes, stages


def run(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help="Checkpoint folder, id of a downloaded hub model, or 2b, 9b, 26b-a4b.")
    ],
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="RECIPE", help="w8, w4-mixed, w4, w4-all, w8a16, w4a16-mixed, or a file NAME.json."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write the quantized checkpoint to; must not exist.")
    ],
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FILE", help="Calibration prompts for GPTQ: a .jsonl file with prompt_ids."),
    ] = None,
    random_weights: Annotated[
        int | None,
        typer.Option("--random-weights", metavar="SEED", help="Use random weights with this seed; CKPT must be a preset."),
    ] = None,
) -> int:
    from dgemma.model import checkpoint as checkpoints
    from dgemma.model import hf_config, hub
    from dgemma.quantize.read_checkpoint import is_quantized
    from dgemma.quantize.recipes import find
    from dgemma.quantize.write_checkpoint import write_quantized

    folder = hub.folder_of(checkpoint)
    if random_weights is None and folder.is_dir() and not is_quantized(folder):
        notes((*checkpoints.notes(folder), *hf_config.notes(folder)))
    with stages() as say:
        made = write_quantized(checkpoint, out, find(recipe), random_seed=random_weights, prompts=calibration, progress=say)
    size = sum(entry["size"] for entry in made["files"].values())
    # Linux counts kilobytes, macOS bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{out}: {size / 1e6:.1f} MB, {made['bits_per_weight']:.2f} bits per weight, peak memory {peak / 1e9:.2f} GB")
    return 0
