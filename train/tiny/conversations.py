"""Writes tiny's exercises as conversations, JSON lines with messages; no operand is one of the held-out ones.

python -m dgemma.train.tiny.conversations OUT.jsonl --count 60000
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from dgemma.train.tiny import tasks
from dgemma.train.tiny.source import HARD


def lines(count: int, seed: int) -> Iterator[str]:
    """So many conversations, tasks drawn alike but for those that a model of this size does not get."""
    rng, names = random.Random(seed), list(tasks.TASKS)
    for task in rng.choices(names, [HARD.get(name, 1.0) for name in names], k=count):
        example = tasks.make(task, rng, "train")
        turns = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.answer}]
        yield json.dumps({"task": task, "messages": turns}) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.train.tiny.conversations", description="Write exercises.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with options.out.open("w", encoding="utf-8") as file:
        file.writelines(lines(options.count, options.seed))


if __name__ == "__main__":
    main()
