"""Writes the tiny model's evaluation set as JSON lines with task, prompt and answer.

python -m dgemma.train.tiny.held_out benchmarks/tasks/tiny_held_out.jsonl
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from dgemma.train.tiny.tasks import held_out

PER_TASK = 100


def lines(per_task: int, seed: int) -> str:
    """One JSON object a line, in a fixed order."""
    return "".join(json.dumps(asdict(example), ensure_ascii=False) + "\n" for example in held_out(per_task, seed))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.train.tiny.held_out", description="Write the held-out set.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-task", type=int, default=PER_TASK)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.write_text(lines(options.per_task, options.seed), encoding="utf-8")


if __name__ == "__main__":
    main()
