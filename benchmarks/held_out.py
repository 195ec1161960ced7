"""The held-out prompts of the shipped model, and files of the same form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dgemma.benchmarks.eval.formats import OWN, read_task_file
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.core.errors import UsageError
from dgemma.core.prompts import held_out

TASKS = held_out()


def read_items(path: Path, per_task: int | None = None, tasks: Sequence[str] | None = None) -> list[EvalItem]:
    """Items of a JSONL file, in its order, at most `per_task` of each task; raises UsageError naming file and line."""
    items: list[EvalItem] = []
    counts: dict[str, int] = {}
    for item in read_task_file(path, OWN).items:
        if tasks and item.task not in tasks:
            continue
        counts[item.task] = counts.get(item.task, 0) + 1
        if per_task is None or counts[item.task] <= per_task:
            items.append(item)
    if tasks and (missing := [t for t in tasks if t not in counts]):
        raise UsageError(f"{path}: has no task {missing[0]!r}; leave out --only or name tasks of the file")
    return items
