"""Writes the real prompts of `dgemma bench` as the resource that the Java protocol reads.

    python -m dgemma.benchmarks.studies.android_prompts [--check]

`--check` changes nothing and exits with 1 when the resource says something else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dgemma.benchmarks.bench.pairs import GROUPS, PER_TASK
from dgemma.benchmarks.held_out import TASKS, read_items

RESOURCE = Path(__file__).resolve().parents[2] / "android_demo/runtime/src/main/resources/org/dgemma/runtime/bench/prompts.json"


def text() -> str:
    """Groups as lists of tasks, tasks as lists of [prompt, answer]."""
    tasks = dict.fromkeys(task for group in GROUPS.values() for task in group)
    items = {task: [[i.prompt, i.answer] for i in read_items(TASKS, PER_TASK, (task,))] for task in tasks}
    return json.dumps({"groups": GROUPS, "tasks": items}, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    if "--check" not in sys.argv[1:]:
        RESOURCE.write_text(text(), encoding="utf-8")
    elif RESOURCE.read_text(encoding="utf-8") != text():
        sys.exit(f"{RESOURCE.name} differs from the tasks; run `python -m dgemma.benchmarks.studies.android_prompts`")


if __name__ == "__main__":
    main()
