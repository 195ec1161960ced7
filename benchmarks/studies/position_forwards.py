"""Less work per canvas: exact match, steps and position-forwards per token by options, on the same prompts and noise.

    python -m dgemma.benchmarks.studies.position_forwards BUNDLE [--per-task K] [--engine E] [--threads N] [--out FILE]

The first option is the stock loop, which the others are compared with; autoregressive decoding of the same bundle comes last.
Position-forwards per token are what no machine's noise can move: positions put through the stack, commits included and
prefill not, over committed tokens. Tokens per second are of one run, the options taking turns, prompt by prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import read_items
from dgemma.benchmarks.studies.arguments import add_asking, asked, write_out
from dgemma.core import machine
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.core.manifest import read_manifest
from dgemma.core.metrics import paired_difference, ratio_of_sums, wilson
from dgemma.core.progress import progress
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

STOCK, AUTOREGRESSIVE = "stock", "autoregressive"
OPTIONS: dict[str, dict[str, Any]] = {
    STOCK: {},
    "early commit 0.0003": {"early_commit": 0.0003},
    "early commit 0.003": {"early_commit": 0.003},
    "early commit 0.01": {"early_commit": 0.01},
    "early commit 0.01, recheck": {"early_commit": 0.01, "recheck": True},
    "start width auto": {"start_width": "auto"},
    "start width auto, early commit 0.003": {"start_width": "auto", "early_commit": 0.003},
    "start width auto, early commit 0.01, recheck": {"start_width": "auto", "early_commit": 0.01, "recheck": True},
    "speculate": {"speculate": True},
    "speculate, start width auto": {"speculate": True, "start_width": "auto"},
}
EASY_STEPS = 2.05  # mean steps of a task below which the stock loop only confirms its first step
LONG = 8  # steps of a canvas from which it counts as long
FULL = 0.9  # share of one canvas that an answer fills, from which it counts as full


@dataclass(frozen=True, kw_only=True)
class Row:
    """One generation; `longest`: steps of its longest canvas; `seconds`: prefill, steps and commits."""

    task: str
    right: bool
    tokens: tuple[int, ...]
    steps: int
    canvases: int
    longest: int
    position_forwards: int
    seconds: float


def check_chat(session: Session) -> None:
    """Raise UsageError for a bundle that prompts cannot be asked."""
    if session.tokenizer is None or session.manifest.chat is None:
        path = session.bundle.path
        raise UsageError(f"{path}: has no chat template, so prompts cannot be asked; export one with a tokenizer")


def generations(session: Session, items: Sequence[EvalItem], seed: int) -> dict[str, list[Row]]:
    """Option → one row an item."""
    rows: dict[str, list[Row]] = {name: [] for name in (*OPTIONS, AUTOREGRESSIVE)}
    for item in progress(items, "position-forwards"):
        for name, options in OPTIONS.items():
            result = session.generate(item.prompt, seed=seed, max_new_tokens=MAX_NEW_TOKENS, trace=True, **options)
            assert result.trajectory is not None
            rows[name].append(row(item, result, int(np.bincount(result.trajectory.canvas_index).max())))
        rows[AUTOREGRESSIVE].append(row(item, session.decode_greedy(item.prompt, max_new_tokens=MAX_NEW_TOKENS), 0))
    return rows


def row(item: EvalItem, result: Result, longest: int) -> Row:
    timings = result.timings
    return Row(
        task=item.task,
        right=result.text.strip() == item.answer.strip(),
        tokens=result.tokens,
        steps=result.steps,
        canvases=result.canvases,
        longest=longest,
        position_forwards=result.position_forwards,
        seconds=timings.prefill_s + timings.denoise_s + timings.commit_s,
    )


def figures(own: Sequence[Row], stock: Sequence[Row]) -> dict[str, Any]:
    """JSON types; intervals are 95 %. `exact_difference` is in favour of `own` where it is positive."""
    n, right, tokens = len(own), [row.right for row in own], sum(len(row.tokens) for row in own)
    low, high = wilson(sum(right), n)
    position_forwards = [[row.position_forwards for row in rows] for rows in (own, stock)]
    steps = [[row.steps for row in rows] for rows in (own, stock)]
    return {
        "n": n,
        "exact": sum(right) / n,
        "low": low,
        "high": high,
        "exact_difference": dict(
            zip(("value", "low", "high"), paired_difference(right, [row.right for row in stock]), strict=True)
        ),
        "equal_tokens": sum(a.tokens == b.tokens for a, b in zip(own, stock, strict=True)) / n,
        "mean_steps": sum(steps[0]) / n,
        "step_ratio": dict(zip(("value", "low", "high"), ratio_of_sums(*steps), strict=True)),
        "position_forwards_per_token": sum(position_forwards[0]) / tokens if tokens else None,
        "position_forward_ratio": dict(zip(("value", "low", "high"), ratio_of_sums(*position_forwards), strict=True)),
        "tokens_per_s": tokens / sum(row.seconds for row in own),
    }


def groups(stock: Sequence[Row], canvas: int) -> dict[str, list[int]]:
    """Group → indices of its rows: everything, the tasks that are not easy, what took a long canvas, what fills one canvas of
    that many tokens, and every task."""
    tasks = list(dict.fromkeys(row.task for row in stock))
    at = {task: [i for i, row in enumerate(stock) if row.task == task] for task in tasks}
    hard = [task for task in tasks if sum(stock[i].steps for i in at[task]) / len(at[task]) >= EASY_STEPS]
    found = {
        "all tasks": list(range(len(stock))),
        "without the easy tasks": sorted(i for task in hard for i in at[task]),
        f"a canvas of {LONG} steps or more": [i for i, row in enumerate(stock) if row.longest >= LONG],
        "fills a canvas": [i for i, row in enumerate(stock) if row.canvases == 1 and len(row.tokens) >= FULL * canvas],
    }
    return {name: indices for name, indices in (found | at).items() if indices}


def summarize(rows: dict[str, list[Row]], canvas: int) -> dict[str, dict[str, Any]]:
    """Group → option → figures; canvas: N."""
    stock = rows[STOCK]
    return {
        group: {name: figures([own[i] for i in indices], [stock[i] for i in indices]) for name, own in rows.items()}
        for group, indices in groups(stock, canvas).items()
    }


def show(summary: dict[str, dict[str, Any]]) -> None:
    header = ["option", "n", "exact", "difference, points", "equal tokens", "steps"]
    header += ["position-forwards/token", "of stock", "tokens/s"]
    for group, options in list(summary.items())[:4]:
        rows = []
        for name, f in options.items():
            d = f["exact_difference"]
            difference = f"{100 * d['value']:+.1f} ({100 * d['low']:+.1f} … {100 * d['high']:+.1f})"
            rows.append(
                [
                    name,
                    str(f["n"]),
                    f"{f['exact']:.1%}",
                    difference,
                    f"{f['equal_tokens']:.1%}",
                    f"{f['mean_steps']:.2f}",
                    f"{f['position_forwards_per_token']:.2f}",
                    f"{f['position_forward_ratio']['value']:.3f}",
                    f"{f['tokens_per_s']:.0f}",
                ]
            )
        report.table(group, header, rows)


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.position_forwards", description="Less work per canvas."
    )
    parser.add_argument("bundle", type=Path)
    add_asking(parser, per_task=40)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    items = read_items(options.tasks, options.per_task)
    manifest, digest = read_manifest(options.bundle, check_files=False)  # Session.load checks the files
    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        check_chat(session)
        rows = generations(session, items, options.seed)
    summary = summarize(rows, manifest.canvas_length)
    show(summary)
    result = {
        "benchmark": "position-forwards",
        "machine": machine.facts(),
        "bundle": {"digest": digest, "canvas_length": manifest.canvas_length},
        "recipe": manifest.quantization["recipe"],
        "sampler": manifest.sampler.to_dict(),
        "sampler_options": OPTIONS,
        "options": asked(options),
        "groups": summary,
    }
    write_out(options.out, result)
    return 0


if __name__ == "__main__":
    report.main(run)
