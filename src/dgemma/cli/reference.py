"""`dgemma reference compile`: the JAX reference's `generate`, compiled ahead of time for TPU v4."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from dgemma.core.errors import EngineError, UsageError
from dgemma.core.install import pip_install

OK, DOES_NOT_FIT = 0, 1
REPORT = "report.json"


def run(
    action: Annotated[str, typer.Argument(metavar="compile", help="What to do: compile.")],
    target: Annotated[
        str, typer.Argument(metavar="CKPT", help="Checkpoint folder, id of a downloaded hub model, or 2b, 9b, 26b-a4b.")
    ],
    topology: Annotated[
        str, typer.Option("--topology", metavar="v4:XxYxZ", help="TPU v4 chips, as v4:1x1x1 or v4:2x2x1.")
    ] = "v4:1x1x1",
    canvas: Annotated[
        int | None, typer.Option("--canvas", metavar="N", help="Canvas length N, in tokens. Default: the model's own.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", metavar="K", help="Positions of prefix and canvas together. Default: the canvas plus 1024."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="T", help="Most denoising steps T per canvas. Default: the model's own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the jax.export artifacts and the report to DIR.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: the report.")] = False,
) -> int:
    if action != "compile":
        raise UsageError(f"`dgemma reference {action}` is unknown; choose compile")
    for package in ("jax", "safetensors"):
        if find_spec(package) is None:
            raise EngineError(f"`dgemma reference` needs package {package!r}; {pip_install('reference')}")
    if out is not None and find_spec("flatbuffers") is None:
        raise EngineError(f"--out needs package 'flatbuffers'; {pip_install('reference')}")
    _check_out(out)
    from dgemma.reference import compile as compiling

    start = time.monotonic()

    def progress(stage: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {stage}", file=sys.stderr, flush=True)

    wanted = compiling.request(target, topology=topology, canvas=canvas, context=context, steps=steps)
    report = compiling.compile_report(wanted, progress)
    if out is not None:
        try:
            for path in compiling.write_artifacts(wanted, out, progress):
                progress(f"wrote {path}")
            (out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--out {out}: cannot be written ({error.strerror or error}); choose another folder") from None
    print(json.dumps(report) if as_json else "\n".join(compiling.describe(report)))
    return OK if report["fits"] else DOES_NOT_FIT


def _check_out(out: Path | None) -> None:
    """Raises UsageError, before any work, when artifacts could not be written there."""
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; name a folder")
    nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UsageError(f"--out {out}: cannot be written, because {nearest} cannot; choose another folder")
