"""`dgemma export`: a checkpoint, or a preset with random weights, to a bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli import CHECK_FAILED, OK
from dgemma.cli.groups import grouped
from dgemma.core.accelerators import CPU, Target
from dgemma.core.config import check_random_weights
from dgemma.core.engines import engines_of
from dgemma.core.errors import UsageError
from dgemma.core.progress import notes, stages

# What golden trajectories are written for, where a bundle can be talked to.
GOLDEN_PROMPTS = [
    "Reverse the word table.",
    "Write 4271 in words.",
    "Spell the words tiger pilot.",
    "Invite each of Anna Ben Carla to the party in the garden on Monday at 5.",
]

GOLDEN_SECONDS = 16.0  # planned, as for tiny


@dataclass(frozen=True, kw_only=True)
class RequestFlags:
    """What the bundle is to be: keywords of `export.request.check`."""

    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="fp32, w8, w4-mixed, w4, w4-all or a file NAME.json; with --target qnn, w8a16 or w4a16-mixed. Default: fp32; "
            "w4-mixed (qnn: w4a16-mixed) if that exceeds 2 GB.",
        ),
    ] = None
    steps: Annotated[int | None, typer.Option("--steps", metavar="T", help="Most denoising steps T per canvas.")] = None
    canvas: Annotated[int | None, typer.Option("--canvas", metavar="N", help="Canvas length N in tokens.")] = None
    context: Annotated[
        int | None, typer.Option("--context", metavar="K", help="Most positions in total: prompt, committed tokens and canvas.")
    ] = None
    random_weights: Annotated[
        int | None, typer.Option("--random-weights", metavar="SEED", help="Use random weights with this seed.")
    ] = None
    calibration: Annotated[
        Path | None, typer.Option("--calibration", metavar="FILE", help="Calibration prompts for GPTQ (.jsonl).")
    ] = None
    soft: Annotated[
        str | None,
        typer.Option("--soft", metavar="exact|topk:K", help="Average all ids in self-conditioning, or only the K likeliest."),
    ] = None
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="cpu|coreml|vulkan|qnn:CHIP[,CHIP…]",
            help="Also compile for Core ML, for Vulkan, or for Snapdragon NPUs: SM8550, SM8650, SM8750 or SM8850.",
        ),
    ] = CPU


@grouped
def run(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help="Checkpoint folder, id of a downloaded hub model, or 2b, 9b, 26b-a4b.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Bundle to write; must not exist. Not needed with --dry-run.", show_default=False
        ),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="onnx|executorch|all", help="Engines to export for.")] = "all",
    wanted: RequestFlags,
    large_golden: Annotated[
        bool, typer.Option("--golden", help="Record golden trajectories even for a large model (slow).")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the input and print the plan; write nothing. Exit status 1 if it does not fit."),
    ] = False,
) -> int:
    from dgemma.model.hf_config import find_config
    from dgemma.quantize.recipes import find

    if out is None and not dry_run:
        raise UsageError("--out is missing; name the bundle to write, or give --dry-run")
    engines = engines_of(engine)
    check_random_weights(wanted.random_weights)
    Target.parse(wanted.target)
    find_config(checkpoint)  # what is wrong with these is said before a package is missed that takes long to install
    if wanted.recipe is not None:
        find(wanted.recipe)

    from dgemma.export import pipeline, request, room
    from dgemma.export.countdown import Countdown, pace
    from dgemma.export.estimate import Estimate
    from dgemma.export.quiet import quiet

    estimate = Estimate(request=request.check(checkpoint, engines=engines, **asdict(wanted)), engines=engines)
    notes(request.notes(estimate.request))
    if out is None or dry_run:
        place = out or Path("bundle")
        print("\n".join([*estimate.lines(checkpoint), *room.lines(estimate, place)]))
        return OK if room.fits(estimate, place) else CHECK_FAILED

    from dgemma.verify import golden

    def add_golden(stage: Path) -> None:
        own = wanted.steps is None and wanted.canvas is None and wanted.random_weights is None
        folder = estimate.request.folder if own and not estimate.request.is_quantized else None
        golden.write(stage, folder, GOLDEN_PROMPTS)

    finish, last = (add_golden, GOLDEN_SECONDS) if large_golden or estimate.parameters <= golden.LARGE else (None, 0.0)
    with quiet(), stages() as say:
        at_once = room.at_once(estimate)
        progress = Countdown(estimate.plan, say, at_once=at_once, pace=pace(), last=last)
        pipeline.write_bundle(estimate.request, out, engines=engines, progress=progress, finish=finish, at_once=at_once)
    print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.1f} MB")
    return 0
