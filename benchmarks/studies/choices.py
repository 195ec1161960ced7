"""Whether probabilities of choices are right as often as they say: held-out questions, each with its answer and near misses.

    python -m dgemma.benchmarks.studies.choices [BUNDLE] [--per-task K] [--engine E] [--threads N] [--out FILE]

A near miss is the right answer with one letter or digit changed to another one.
"""

from __future__ import annotations

import argparse
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import read_items
from dgemma.benchmarks.studies.arguments import add_asking, asked, write_out
from dgemma.benchmarks.studies.bundle_facts import bundle_facts
from dgemma.core import machine
from dgemma.core.metrics import wilson
from dgemma.core.progress import progress
from dgemma.core.shipped import bundle_path
from dgemma.runtime.session import Session

MISSES = 3
LONGEST = 12  # tokens of an answer
BINS = (0.0, 0.5, 0.7, 0.9, 0.99, 1.0)  # of the largest probability


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question: the probability of its most probable choice, whether that is right, whether the answer was, and what both
    took."""

    largest: float
    right: bool
    of_right: float
    answer_right: bool
    position_forwards: int
    plain_position_forwards: int


def near_misses(answer: str, draw: random.Random) -> list[str]:
    """Texts that differ from the answer in one letter or digit."""
    places = [i for i, sign in enumerate(answer) if sign in string.ascii_letters + string.digits]
    found: dict[str, None] = {}
    while len(found) < MISSES:
        at = draw.choice(places)
        sign = answer[at]
        kind = string.digits if sign.isdigit() else string.ascii_lowercase if sign.islower() else string.ascii_uppercase
        if (other := draw.choice(kind)) != sign:
            found[answer[:at] + other + answer[at + 1 :]] = None
    return list(found)


def ask(session: Session, item: EvalItem, seed: int) -> Row:
    """With choices in an order drawn by the question."""
    draw = random.Random(f"{item.prompt} {seed}")
    choices = [item.answer, *near_misses(item.answer, draw)]
    draw.shuffle(choices)
    plain = session.generate(item.prompt, seed=seed, choices=choices)
    result = session.generate(item.prompt, seed=seed, choices=choices, choice_probabilities=True)
    shares = result.choice_probabilities
    assert shares is not None
    best = max(shares, key=shares.__getitem__)
    return Row(
        largest=shares[best],
        right=best == item.answer,
        of_right=shares[item.answer],
        answer_right=result.text == item.answer,
        position_forwards=result.position_forwards,
        plain_position_forwards=plain.position_forwards,
    )


def bins(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Questions by their largest probability: how probable, and how often right; JSON types."""
    found = []
    for low, high in pairwise(BINS):
        own = [row for row in rows if low <= row.largest < high or (row.largest == high == 1)]
        if own:
            right = sum(row.right for row in own)
            found.append(
                {
                    "low": low,
                    "high": high,
                    "n": len(own),
                    "mean": sum(row.largest for row in own) / len(own),
                    "right": right / len(own),
                    "interval": list(wilson(right, len(own))),
                }
            )
    return found


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """JSON types. `calibration_error`: of the bins, weighted by their questions (Guo et al., arXiv 1706.04599)."""
    n, some = len(rows), bins(rows)
    return {
        "n": n,
        "right": sum(row.right for row in rows) / n,
        "answer_right": sum(row.answer_right for row in rows) / n,
        "mean_probability": sum(row.largest for row in rows) / n,
        "mean_of_right": sum(row.of_right for row in rows) / n,
        "calibration_error": sum(one["n"] * abs(one["mean"] - one["right"]) for one in some) / n,
        "position_forwards": sum(row.position_forwards for row in rows) / n,
        "plain_position_forwards": sum(row.plain_position_forwards for row in rows) / n,
        "bins": some,
    }


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.choices", description="Probabilities of choices."
    )
    parser.add_argument("bundle", nargs="?", type=Path, default=bundle_path("tiny"))
    add_asking(parser, per_task=20)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    items = read_items(options.tasks, None)
    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        tokenizer = session.tokenizer
        assert tokenizer is not None
        counts: dict[str, int] = {}
        short = []
        for item in items:
            counts[item.task] = counts.get(item.task, 0) + (fits := len(tokenizer.encode_user(item.answer)) <= LONGEST)
            if fits and counts[item.task] <= options.per_task:
                short.append(item)
        rows = [ask(session, item, options.seed) for item in progress(short, "choices")]
        facts = bundle_facts(session.bundle)
    result = {
        "benchmark": "choices",
        "machine": machine.facts(),
        "bundle": facts,
        "options": asked(options),
        "tasks": sorted({item.task for item in short}),
        **summary(rows),
    }
    shown = [(f"{b['low']:g} … {b['high']:g}", str(b["n"]), f"{b['mean']:.3f}", f"{b['right']:.1%}") for b in result["bins"]]
    report.table("Largest probability", ("between", "n", "mean", "right"), shown)
    write_out(options.out, result)
    return 0


if __name__ == "__main__":
    report.main(run)
