"""Single arguments and options that several commands share; `generation` has the groups."""

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
    str | None,
    typer.Option(
        "--engine",
        metavar="onnx|executorch",
        help="What runs the model. Default: the first of these that the bundle has and that is installed.",
    ),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="auto|cpu|qnn[:CHIP]",
        help="Where the model runs. auto uses a Snapdragon NPU if the bundle supports it and this machine has one; qnn "
        "requires it, and uses an emulator on x86-64.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of all noise, 0 to 2^64-1.")]
TokensOption = Annotated[int, typer.Option("--max-new-tokens", metavar="K", help="Generate at most K tokens.")]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Use the options of a profile written by `dgemma tune`. Options on the command line override them.",
    ),
]
TorchThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="Threads that torch uses. Default: all cores.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="Threads that the engine uses. Default: its own choice.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
