"""What guidance does to exact match, steps and diversity; the same prompts and seeds.

python -m dgemma.benchmarks.studies.guidance [BUNDLE] [--per-task K] [--threads N] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import read_items
from dgemma.benchmarks.studies.arguments import add_asking, asked, write_out
from dgemma.benchmarks.studies.bundle_facts import bundle_facts
from dgemma.core import machine
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.core.metrics import paired_difference, wilson
from dgemma.core.progress import progress
from dgemma.core.shipped import bundle_path
from dgemma.runtime.session import Session

NONE, SEEDS = "none", 2
NEGATIVE = "Write something."
WAYS: dict[str, dict[str, Any]] = {
    NONE: {},
    "s = 0.5, negative prompt": {"guidance": 0.5, "negative": NEGATIVE},
    "s = 1.5, negative prompt": {"guidance": 1.5, "negative": NEGATIVE},
    "s = 3, negative prompt": {"guidance": 3.0, "negative": NEGATIVE},
    "s = 3, negative prompt, from step 2": {"guidance": 3.0, "negative": NEGATIVE, "guidance_steps": (2, 1000)},
    "s = 1.5, less self-conditioning": {"guidance": 1.5},
    "s = 3, less self-conditioning": {"guidance": 3.0},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One generation; `seconds` of denoising."""

    text: str
    right: bool
    steps: int
    seconds: float


def generated(session: Session, items: Sequence[EvalItem], seed: int) -> dict[str, list[list[Row]]]:
    """Way → item → one row a seed."""
    rows: dict[str, list[list[Row]]] = {name: [] for name in WAYS}
    for item in progress(items, "guidance"):
        for name, options in WAYS.items():
            made = []
            for one in range(seed, seed + SEEDS):
                started = perf_counter()
                result = session.generate(item.prompt, seed=one, max_new_tokens=MAX_NEW_TOKENS, **options)
                right = result.text.strip() == item.answer.strip()
                made.append(Row(text=result.text, right=right, steps=result.steps, seconds=perf_counter() - started))
            rows[name].append(made)
    return rows


def figures(own: Sequence[Sequence[Row]], plain: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """JSON types; intervals are 95 %. `distinct`: share of prompts whose seeds gave different answers."""
    flat, other = ([row for rows in side for row in rows] for side in (own, plain))
    right = [row.right for row in flat]
    low, high = wilson(sum(right), len(flat))
    difference = paired_difference(right, [row.right for row in other])
    steps = sum(row.steps for row in flat)
    return {
        "n": len(flat),
        "exact": sum(right) / len(flat),
        "low": low,
        "high": high,
        "difference": dict(zip(("value", "low", "high"), difference, strict=True)),
        "mean_steps": steps / len(flat),
        "distinct": sum(len({row.text for row in rows}) > 1 for rows in own) / len(own),
        "same_answer": sum(a.text == b.text for a, b in zip(flat, other, strict=True)) / len(flat),
        "ms_a_step": 1e3 * sum(row.seconds for row in flat) / steps,
    }


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.guidance", description="Guidance.")
    parser.add_argument("bundle", nargs="?", type=Path, default=bundle_path("tiny"))
    add_asking(parser, per_task=10)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    items = read_items(options.tasks, options.per_task)
    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        rows = generated(session, items, options.seed)
        facts = bundle_facts(session.bundle)
    ways = {name: figures(own, rows[NONE]) for name, own in rows.items()}
    result = {
        "benchmark": "guidance",
        "machine": machine.facts(),
        "bundle": facts,
        "options": asked(options),
        "seeds": SEEDS,
        "negative": NEGATIVE,
        "ways": ways,
    }
    body = [(name, str(one["n"]), f"{one['exact']:.1%}", f"{one['mean_steps']:.2f}") for name, one in ways.items()]
    report.table("Guidance", ("guidance", "n", "exact", "steps"), body)
    write_out(options.out, result)
    return 0


if __name__ == "__main__":
    report.main(run)
