"""What a bundle and the float model are both asked: held-out exercises of the tiny model, or ids where there is no text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dgemma.core.errors import UsageError

PROMPTS = Path(__file__).parent.parent / "benchmarks" / "tasks" / "tiny_held_out.jsonl"
COUNT = 612  # 36 of each of its 17 tasks


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt, as text or as ids; `answer` is None where nobody knows what is right."""

    task: str
    prompt: str | tuple[int, ...]
    answer: str | None = None


def read(path: Path, count: int = COUNT) -> list[Item]:
    """`count` items of a JSONL file with a `prompt`, and perhaps a `task` and an `answer`: as many of each task as can be.

    Raises:
        UsageError: naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({_reason(error)}); give a JSONL file with prompts") from None
    by_task: dict[str, list[Item]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            item = _item(line, f"{path}:{number}")
            by_task.setdefault(item.task, []).append(item)
    if not by_task:
        raise UsageError(f"{path}: holds no prompts; give a JSONL file with prompts")
    return evenly(list(by_task.values()), count)


def evenly(groups: Sequence[Sequence[Item]], count: int) -> list[Item]:
    """The first items of every group, in turns, until there are `count` or none is left; grouped again."""
    taken = [0] * len(groups)
    left = min(count, sum(map(len, groups)))
    while left:
        for i, group in enumerate(groups):
            if left and taken[i] < len(group):
                taken[i] += 1
                left -= 1
    return [item for n, group in zip(taken, groups, strict=True) for item in group[:n]]


def _item(line: str, where: str) -> Item:
    try:
        values = json.loads(line)
        prompt, task, answer = values["prompt"], values.get("task", "prompts"), values.get("answer")
        if not isinstance(prompt, str) or not prompt.strip():
            raise TypeError
        if not isinstance(task, str) or not isinstance(answer, (str, type(None))):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{where}: is not a JSON object whose prompt, task and answer are text; correct the line") from None
    return Item(task=task, prompt=prompt, answer=answer)


def _reason(error: Exception) -> str:
    return (error.strerror or "no such file") if isinstance(error, OSError) else "it is not UTF-8"
