"""Held-out exact match by task: diffusion and autoregressive decoding of one bundle, on the same prompts.

    python -m dgemma.benchmarks.studies.evaluate BUNDLE [--tasks FILE] [--engine E] [--threads N] [--per-task K] [--out FILE]

`dgemma eval` on the tasks of tiny, with those pooled a second time that diffusion solves, and the wrong answers kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.figures import ALL, Row, Split, by_task, figures, show, summarize
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.eval.run import DECODERS, Decoder, Question, answers
from dgemma.benchmarks.held_out import TASKS, read_items
from dgemma.core import machine
from dgemma.core.generate_options import MAX_NEW_TOKENS, GenerateOptions
from dgemma.core.manifest import read_manifest
from dgemma.core.progress import progress

SOLVED = 0.9  # tasks at or above this exact match are pooled a second time


def evaluate(
    session: Decoder, items: Iterable[EvalItem], *, seed: int, max_new_tokens: int, autoregressive: bool
) -> tuple[Split, list[dict[str, Any]]]:
    """Run every item through the decoders; returns the answers and one row for each wrong one."""
    asked: list[EvalItem] = []

    def questions() -> Iterable[Question]:
        for index, item in enumerate(items):
            asked.append(item)
            yield Question(file=0, index=index, item=item, prompt=item.prompt)

    decoders = DECODERS["both" if autoregressive else "diffusion"]
    rows: list[Row] = list(answers(session, questions(), decoders, GenerateOptions(seed=seed, max_new_tokens=max_new_tokens)))
    wrong = [
        {
            "decoder": row.decoder,
            "task": row.task,
            "prompt": asked[row.index].prompt,
            "answer": asked[row.index].answer,
            "text": row.text,
        }
        for row in rows
        if not row.right
    ]
    return by_task(rows), wrong


def solved(split: Split) -> dict[str, list[str]]:
    """All tasks, and those that diffusion solves."""
    good = [task for task, rows in split.items() if figures(rows["diffusion"])["exact"] >= SOLVED]
    return {ALL: list(split), "solved tasks": good}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.evaluate", description="Held-out exact match by task."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", type=Path, default=TASKS, help="JSONL lines with task, prompt, answer")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="these tasks of the file")
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--per-task", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS)
    parser.add_argument("--no-autoregressive", action="store_true", help="only diffusion")
    parser.add_argument("--out", type=Path, help="write the figures and the wrong answers as JSON")
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    report.check_out(options.out)
    items = read_items(options.tasks, options.per_task, options.only)
    manifest, digest = read_manifest(options.bundle, check_files=False)  # Session.load checks the files
    from dgemma.runtime.session import Session

    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        split, wrong = evaluate(
            session,
            progress(items, "evaluate"),
            seed=options.seed,
            max_new_tokens=options.max_new_tokens,
            autoregressive=not options.no_autoregressive,
        )
    summary = summarize(split, solved(split))
    show("Held-out exact match", summary)
    if options.out:
        settings = {k: getattr(options, k) for k in ("engine", "threads", "seed", "max_new_tokens", "per_task")}
        result = {
            "benchmark": "evaluate",
            "machine": machine.facts(),
            "bundle": {"digest": digest, "steps": manifest.steps, "canvas_length": manifest.canvas_length},
            "recipe": manifest.quantization,
            "options": {**settings, "items": options.tasks.name},
            **summary,
            "wrong": wrong,
        }
        report.write_json(options.out, result)
        print(f"wrote {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    report.main(run)
