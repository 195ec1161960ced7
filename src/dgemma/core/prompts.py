"""Files of prompts: JSONL with a `prompt`, and perhaps a `task` and an `answer`. One of tiny's tasks is shipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from dgemma.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TaskPrompt:
    """One prompt, as text or as ids; `answer` is None where nobody knows what is right."""

    task: str
    prompt: str | tuple[int, ...]
    answer: str | None = None


def held_out() -> Path:
    """The shipped file: held-out exercises of the tiny model, 100 of each task."""
    return Path(str(files("dgemma.benchmarks"))) / "tasks" / "tiny_held_out.jsonl"


def read(path: Path) -> list[TaskPrompt]:
    """All prompts of a file, which are text.

    Raises:
        UsageError: naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({_reason(error)}); give a JSONL file with prompts") from None
    prompts = [_prompt(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UsageError(f"{path}: holds no prompts; give a JSONL file with prompts")
    return prompts


def by_task(prompts: Sequence[TaskPrompt]) -> dict[str, list[TaskPrompt]]:
    """The prompts of each task, in order."""
    found: dict[str, list[TaskPrompt]] = {}
    for prompt in prompts:
        found.setdefault(prompt.task, []).append(prompt)
    return found


def evenly(prompts: Sequence[TaskPrompt], count: int) -> list[TaskPrompt]:
    """`count` of them, or all, grouped by task: the first of every task, then the second, until there are enough."""
    groups = list(by_task(prompts).values())
    taken = [0] * len(groups)
    left = min(count, len(prompts))
    while left:
        for i, group in enumerate(groups):
            if left and taken[i] < len(group):
                taken[i] += 1
                left -= 1
    return [prompt for n, group in zip(taken, groups, strict=True) for prompt in group[:n]]


def spaced(prompts: Sequence[TaskPrompt], count: int) -> list[TaskPrompt]:
    """`count` of them, or all, at equal distances in the order of the file."""
    count = min(count, len(prompts))
    return [prompts[i * len(prompts) // count] for i in range(count)]


def _prompt(line: str, where: str) -> TaskPrompt:
    try:
        values = json.loads(line)
        prompt, task, answer = values["prompt"], values.get("task", "prompts"), values.get("answer")
        if not isinstance(prompt, str) or not prompt.strip():
            raise TypeError
        if not isinstance(task, str) or not isinstance(answer, (str, type(None))):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{where}: is not a JSON object whose prompt, task and answer are text; correct the line") from None
    return TaskPrompt(task=task, prompt=prompt, answer=answer)


def _reason(error: Exception) -> str:
    return (error.strerror or "no such file") if isinstance(error, OSError) else "it is not UTF-8"
