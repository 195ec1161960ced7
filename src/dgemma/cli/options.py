"""Arguments and options that several commands share one by one; `generation` has those that come together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgemma.core.shipped import bundle_path

BundleArgument = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE",
        help="A folder written by `dgemma export`, or tiny, the bundle that ships with dgemma.",
        show_default=False,
        parser=bundle_path,
    ),
]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="onnx or executorch. Default: the first of them in the bundle that is installed.")
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="auto|cpu|qnn",
        help="What runs the model: auto takes a Snapdragon's NPU where the bundle and this machine have it; qnn insists, and "
        "runs in an emulator on x86-64.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all noise, 0 to 2^64-1.")]
TokensOption = Annotated[int, typer.Option("--max-new-tokens", metavar="K", help="Generate at most K tokens.")]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Options of a profile, as `dgemma tune` writes it. Those that are given as well take the place of its own.",
    ),
]
TorchThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads that torch uses. Default: all cores.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads that the engine uses. Default: its own choice.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
