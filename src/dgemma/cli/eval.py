"""`dgemma eval`: questions of task files, answered by generation and scored, with what the answers cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.run import (
    BundleArgument,
    CanvasOption,
    EngineOption,
    RepairOption,
    SeedOption,
    SettleOption,
    SpeculateOption,
    ThreadsOption,
    TokensOption,
    canvas_start,
)
from dgemma.cli.terminal import print_json


def run(
    bundle: BundleArgument,
    task: Annotated[
        list[Path], typer.Option("--task", metavar="FILE", help="MMLU (.jsonl, .csv), HellaSwag, GSM8K, or task/prompt/answer.")
    ],
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="K", help="At most K questions of each task.")] = None,
    seed: SeedOption = 0,
    shots: Annotated[
        list[Path] | None, typer.Option("--shots", metavar="FILE", help="Solved examples, in a format of the task files.")
    ] = None,
    num_shots: Annotated[int, typer.Option("--num-shots", metavar="K", help="The first K examples of a question's task.")] = 5,
    max_new_tokens: TokensOption = 256,
    decoder: Annotated[str, typer.Option("--decoder", help="diffusion, autoregressive, or both on the same.")] = "diffusion",
    settle: SettleOption = None,
    canvas: CanvasOption = None,
    repair: RepairOption = False,
    speculate: SpeculateOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the result there, each answer beside it as it comes.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the answers beside --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    from dgemma.benchmarks import report
    from dgemma.benchmarks.eval.figures import show
    from dgemma.benchmarks.eval.run import EvalRequest, evaluate_bundle
    from dgemma.core.compute_policy import ComputePolicy

    request = EvalRequest(
        bundle=bundle, tasks=tuple(task), engine=engine, threads=threads, limit=limit, seed=seed, shots=tuple(shots or ()),
        num_shots=num_shots, max_new_tokens=max_new_tokens, decoder=decoder, out=out, resume=resume,
        compute=ComputePolicy.of(settle=settle, canvas=canvas_start(canvas), repair=repair, speculate=speculate),
    )  # fmt: skip
    result = evaluate_bundle(request, lambda text: print(text, file=sys.stderr, flush=True))
    if out is not None:
        report.write_json(out, result)
    if as_json:
        print_json(result, allow_nan=False)
    else:
        show("Score, by generation", result)
