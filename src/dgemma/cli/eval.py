"""`dgemma eval`: questions of task files, answered by generation and scored, with what the answers cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.generation import ComputeFlags
from dgemma.cli.groups import grouped
from dgemma.cli.options import BundleArgument, EngineOption, JsonOption, ProfileOption, SeedOption, ThreadsOption, TokensOption
from dgemma.cli.terminal import print_json
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.profile import read_profile

DEFAULT = GenerateOptions()


@grouped
def run(
    bundle: BundleArgument,
    *,
    task: Annotated[
        list[Path],
        typer.Option("--task", metavar="FILE", help="Questions: MMLU (.jsonl, .csv), HellaSwag, GSM8K, or task/prompt/answer."),
    ],
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="K", help="Ask at most K questions of each task.")] = None,
    seed: SeedOption = DEFAULT.seed,
    shots: Annotated[
        list[Path] | None,
        typer.Option("--shots", metavar="FILE", help="Solved examples to put before each question, in a task file's format."),
    ] = None,
    num_shots: Annotated[int, typer.Option("--num-shots", metavar="K", help="Use the first K examples of each task.")] = 5,
    max_new_tokens: TokensOption = DEFAULT.max_new_tokens,
    decoder: Annotated[
        str, typer.Option("--decoder", metavar="diffusion|autoregressive|both", help="How to answer.")
    ] = "diffusion",
    compute: ComputeFlags,
    profile: ProfileOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the result to FILE; answers go beside it as they come.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the answers beside --out.")] = False,
    as_json: JsonOption = False,
) -> None:
    from dgemma.benchmarks import report
    from dgemma.benchmarks.eval.figures import show
    from dgemma.benchmarks.eval.run import EvalRequest, evaluate_bundle

    said = read_profile(profile)
    request = EvalRequest(
        bundle=bundle,
        tasks=tuple(task),
        engine=engine,
        threads=threads,
        limit=limit,
        shots=tuple(shots or ()),
        num_shots=num_shots,
        decoder=decoder,
        out=out,
        resume=resume,
        options=GenerateOptions(
            seed=seed,
            max_new_tokens=max_new_tokens,
            sampler=said.sampler(),
            compute=compute.policy(said),
        ),
    )
    result = evaluate_bundle(request, lambda text: print(text, file=sys.stderr, flush=True))
    if out is not None:
        report.write_json(out, result)
    if as_json:
        print_json(result, allow_nan=False)
    else:
        show("Score, by generation", result)
