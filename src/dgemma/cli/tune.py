"""`dgemma tune`: the options that answer your own prompts with the least work, as a profile for `dgemma run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.options import BundleArgument, EngineOption, JsonOption, SeedOption, ThreadsOption, TokensOption
from dgemma.cli.terminal import print_json
from dgemma.core.generate_options import GenerateOptions

DEFAULT = GenerateOptions()
HELD, NOT_HELD = 0, 1


def run(
    bundle: BundleArgument,
    task: Annotated[
        list[Path],
        typer.Option("--task", metavar="FILE", help="Questions in a format of `dgemma eval`; half of them are held out."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="New folder for the profile and the result, or the folder of a run to continue."
        ),
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the profile.")] = "tuned",
    objective: Annotated[
        str, typer.Option("--objective", metavar="forwards|tokens-per-second", help="What to optimize.")
    ] = "forwards",
    trials: Annotated[int, typer.Option("--trials", metavar="K", help="Number of option sets to try, over all runs.")] = 60,
    margin: Annotated[
        float, typer.Option("--margin", metavar="SHARE", help="Share of right answers that may be lost, at one-sided 95 %.")
    ] = 0.02,
    limit: Annotated[int | None, typer.Option("--limit", metavar="K", help="Take at most K questions of each task.")] = None,
    seed: SeedOption = DEFAULT.seed,
    max_new_tokens: TokensOption = DEFAULT.max_new_tokens,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> int:
    from dgemma.benchmarks.tune.run import PROFILE, TuneRequest, tune
    from dgemma.benchmarks.tune.score import SPEED
    from dgemma.benchmarks.tune.show import show

    request = TuneRequest(
        bundle=bundle,
        tasks=tuple(task),
        out=out,
        name=name,
        objective=objective,
        trials=trials,
        margin=margin,
        limit=limit,
        seed=seed,
        max_new_tokens=max_new_tokens,
        engine=engine,
        threads=threads,
    )
    result, holds = tune(request, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print_json(result, allow_nan=False)
    else:
        show(result)
    if not holds:
        print("no profile: no options that were tried are shown to cost less without a loss", file=sys.stderr)
        return NOT_HELD
    found = result["held_out"]
    if found["tokens_per_s"] < found["stock_tokens_per_s"] and objective != SPEED:
        cure = f"on an idle machine, --objective {SPEED} tunes for speed"
        print(f"note: fewer position-forwards, but fewer tokens/s in this run; {cure}", file=sys.stderr)
    print(f"use it with --profile {out / PROFILE}", file=sys.stderr)
    return HELD
