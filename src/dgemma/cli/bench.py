"""`dgemma bench`: speed, memory and load time of a bundle, against this machine's ceilings and against an earlier result."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.options import BundleArgument, EngineOption, TargetOption, ThreadsOption
from dgemma.cli.terminal import print_json
from dgemma.core.accelerators import AUTO
from dgemma.core.errors import UsageError

OK, WORSE = 0, 1


def run(
    bundle: BundleArgument,
    engine: EngineOption = None,
    target: TargetOption = AUTO,
    threads: ThreadsOption = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", metavar="S", help="Time to measure for, not counting loading; at least one round of everything runs."
        ),
    ] = 60.0,
    repeats: Annotated[
        int | None, typer.Option("--repeats", metavar="K", help="Run this many rounds instead, however long they take.")
    ] = None,
    outputs: Annotated[
        str, typer.Option("--outputs", metavar="K,K", help="Lengths of the outputs to estimate, in tokens.")
    ] = "128,500,2600",
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="OLD.json", help="Compare with an earlier result; exit with 1 if a ratio got worse."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Also write the result to FILE.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> int:
    from dgemma.benchmarks import report
    from dgemma.benchmarks.bench import show
    from dgemma.benchmarks.bench.budget import Budget
    from dgemma.benchmarks.bench.run import BenchRequest, bench
    from dgemma.core.progress import stages

    report.check_out(out)
    request = BenchRequest(
        bundle=bundle,
        engine=engine,
        threads=threads,
        budget=Budget(seconds=seconds, repeats=repeats),
        outputs=lengths(outputs),
        compare=compare,
        target=target,
    )
    # While a spinner turns, rich sends what is printed to its own terminal, which is wrong for a pipe.
    stream = None if sys.stdout.isatty() else sys.stdout
    with stages() as stage:
        result = bench(request, (lambda _: None) if as_json else partial(print, file=stream, flush=True), stage)
    if not as_json:
        show.result(result)
    if out is not None:
        report.write_json(out, result)
    print_json(result, allow_nan=False)
    return WORSE if any(row.get("worse") for row in result.get("comparison", {}).get("rows", [])) else OK


def lengths(text: str, option: str = "--outputs", example: str = "128,500") -> tuple[int, ...]:
    """`128,500` as numbers, each once; raises UsageError."""
    if not re.fullmatch(r"[0-9]{1,18}(,[0-9]{1,18})*", text):
        raise UsageError(f"{option} {text!r} must be numbers of tokens separated by commas, such as {example}")
    return tuple(dict.fromkeys(map(int, text.split(","))))
