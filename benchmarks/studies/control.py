"""What options of the sampler do to exact match and steps, and templates beside prompting alone; the same prompts and noise.

    python -m dgemma.benchmarks.studies.control [BUNDLE] [--per-task K] [--engine E] [--threads N] [--out FILE]

Templates are made from the right answers, so they give away what they pin, and how many tokens each hole has. Their measure is
therefore the holes alone; prompting alone is told none of that, and shows what the model does without.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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

STOCK = "stock"
OPTIONS: dict[str, dict[str, Any]] = {
    STOCK: {},
    "temperature 0": {"temperature": 0},
    "temperature 0.2": {"temperature": 0.2},
    "temperature 0.8:0.8": {"temperature": (0.8, 0.8)},
    "temperature 1.2:0.8": {"temperature": (1.2, 0.8)},
    "steps 4": {"max_steps": 4},
    "steps 1": {"max_steps": 1},
    "entropy bound 0.01": {"entropy_bound": 0.01},
    "entropy bound 0.0001": {"entropy_bound": 0.0001},
    "entropy bound 1": {"entropy_bound": 1.0},
    "confidence 0.01": {"confidence": 0.01},
    "stability 0": {"stability": 0},
    "top-k 1": {"top_k": 1},
    "top-k 4": {"top_k": 4},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.1": {"min_p": 0.1},
    "temperature 1.2:0.8, top-p 0.9": {"temperature": (1.2, 0.8), "top_p": 0.9},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One generation."""

    task: str
    right: bool
    steps: int


def sudoku(item: EvalItem) -> str:
    """The givens of the prompt pinned, a hole of one token for every cell that is open."""
    given = re.findall(r"[1-4.]{4}", item.prompt)
    assert len(given) == 4
    return " ".join(given).replace(".", "{{1}}")


def fields(item: EvalItem, count: Callable[[str], int]) -> str:
    """A record with its keys pinned, and a hole for every value."""
    return re.sub(r'(?<=: )"?[^",}]+"?', lambda value: f"{{{{{count(value[0])}}}}}", item.answer)


def tail(item: EvalItem, count: Callable[[str], int]) -> str:
    """A text with its second half pinned, from the beginning of a word."""
    cut = item.answer.index(" ", len(item.answer) // 2)
    return f"{{{{{count(item.answer[:cut])}}}}}{item.answer[cut:]}"


TEMPLATES: dict[str, Callable[[EvalItem, Callable[[str], int]], str]] = {
    "sudoku": lambda item, count: sudoku(item),
    "to_json": fields,
    "letter": tail,
    "template": tail,
}
HOW = {"sudoku": "givens", "to_json": "keys", "letter": "second half", "template": "second half"}


def sampled(session: Session, items: Sequence[EvalItem], seed: int) -> dict[str, list[Row]]:
    """Option → one row an item."""
    rows: dict[str, list[Row]] = {name: [] for name in OPTIONS}
    for item in progress(items, "options"):
        for name, options in OPTIONS.items():
            result = session.generate(item.prompt, seed=seed, max_new_tokens=MAX_NEW_TOKENS, **options)
            rows[name].append(Row(task=item.task, right=result.text.strip() == item.answer.strip(), steps=result.steps))
    return rows


def filled(session: Session, items: Sequence[EvalItem], seed: int) -> dict[str, dict[str, list[Row]]]:
    """Task → with the template, and with the prompt alone; rows in the order of the items that fit on a canvas."""
    tokenizer = session.tokenizer
    assert tokenizer is not None
    found: dict[str, dict[str, list[Row]]] = {task: {"template": [], "prompt alone": []} for task in TEMPLATES}
    for item in progress([item for item in items if item.task in TEMPLATES], "templates"):
        if len(tokenizer.encode(item.answer)) >= session.manifest.canvas_length:
            continue
        text = TEMPLATES[item.task](item, lambda part: len(tokenizer.encode(part)))
        results = session.infill(text, item.prompt, seed=seed), session.generate(item.prompt, seed=seed)
        for rows, result in zip(found[item.task].values(), results, strict=True):
            rows.append(Row(task=item.task, right=result.text.strip() == item.answer.strip(), steps=result.steps))
    return found


def figures(own: Sequence[Row], other: Sequence[Row]) -> dict[str, Any]:
    """JSON types; intervals are 95 %. `difference` is in favour of `own` where it is positive."""
    right = [row.right for row in own]
    low, high = wilson(sum(right), len(own))
    difference = paired_difference(right, [row.right for row in other])
    return {
        "n": len(own),
        "exact": sum(right) / len(own),
        "low": low,
        "high": high,
        "difference": dict(zip(("value", "low", "high"), difference, strict=True)),
        "mean_steps": sum(row.steps for row in own) / len(own),
    }


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.control", description="Options of the sampler.")
    parser.add_argument("bundle", nargs="?", type=Path, default=bundle_path("tiny"))
    add_asking(parser, per_task=20)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    items = read_items(options.tasks, options.per_task)
    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        rows, templates = sampled(session, items, options.seed), filled(session, items, options.seed)
        facts = bundle_facts(session.bundle)
    result = {
        "benchmark": "control",
        "machine": machine.facts(),
        "bundle": facts,
        "options": asked(options),
        "sampled": {name: figures(own, rows[STOCK]) for name, own in rows.items()},
        "templates": {
            task: {name: figures(own, ways["prompt alone"]) for name, own in ways.items()} | {"pinned": HOW[task]}
            for task, ways in templates.items()
            if ways["template"]
        },
    }
    header = ("option", "n", "exact", "steps")
    shown = result["sampled"]
    assert isinstance(shown, dict)
    report.table(
        "Options", header, [(name, str(f["n"]), f"{f['exact']:.1%}", f"{f['mean_steps']:.2f}") for name, f in shown.items()]
    )
    write_out(options.out, result)
    return 0


if __name__ == "__main__":
    report.main(run)
