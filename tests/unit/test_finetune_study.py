"""The study of fine-tuning: its task, its folder, and verdicts that follow the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.studies import finetune, finetune_table, finetune_task
from dgemma.core.errors import DgemmaError
from dgemma.train.tiny.tasks import split_of


def test_the_tasks_parts_share_no_word_and_are_always_the_same(tmp_path: Path) -> None:
    train, test = finetune_task.examples("train", 60), finetune_task.examples("test", 60)
    for part, items in (("train", train), ("test", test)):
        assert len({one.prompt for one in items}) == 60
        assert all(split_of(one.answer[::-1].lower()) == part for one in items)
        assert all(one.answer[::-1].lower() in one.prompt for one in items)
    assert finetune_task.examples("test", 20) == test[:20]
    finetune_task.write(tmp_path / "new.jsonl", 3)
    lines = [json.loads(line)["messages"] for line in (tmp_path / "new.jsonl").open()]
    assert [(user["content"], said["content"]) for user, said in lines] == [(one.prompt, one.answer) for one in train[:3]]


def test_a_command_runs_once_and_what_it_took_is_kept(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(f"open({str(tmp_path / 'log')!r}, 'a').write('x'); print('said')")
    work = finetune.Work(tmp_path, threads=1, per_task=1)
    cost = work.ran("count", f"python {tmp_path}/count.py")
    assert cost["command"] == "python count.py" and cost["processor_s"] > 0
    assert work.ran("count", f"python {tmp_path}/count.py") == cost
    assert (tmp_path / "log").read_text() == "x" and (tmp_path / "count.out").read_text() == "said\n"
    with pytest.raises(DgemmaError, match="status 3 of: python"):
        work.ran("bad", "python -c 'raise SystemExit(3)'")
    assert work.kept("bad") is None


def test_figures_of_the_new_task_and_of_the_others() -> None:
    new, own = ([EvalItem(task=task, prompt="p", answer="a")] * 2 for task in ("new", "old"))
    found = finetune.figures([True, True, False, True], new, own)
    assert (found["new"]["exact"], found["own"]["exact"], found["tasks"]) == (1.0, 0.5, {"old": 1})


def test_a_goal_is_missed_where_the_figures_miss_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def values(exact: float, change: float, seconds: float, passed: bool) -> dict[str, Any]:
        one = {"new": {"exact": exact}, "change": {"value": change}, "cost": {"processor_s": seconds}}
        return {"runs": {"full": one, "lora": one}, "gate": {"passed": passed}}

    for good, found in ((True, values(0.9, -0.01, 600, True)), (False, values(0.89, -0.011, 601, False))):
        monkeypatch.setattr(finetune_table, "read", lambda name, found=found: found)
        rows = finetune_table.goal().splitlines()[2:]
        assert [row.count("missed") for row in rows] == ([0, 0, 0, 0] if good else [2, 2, 2, 1])


def test_wall_time_on_two_threads_counts_where_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"new": {"exact": 0.9}, "change": {"value": 0.0}, "cost": {"processor_s": 660.0}}
    runs = {"full": one, "lora": {**one, "two_threads": {"wall_s": 480.0}}}
    monkeypatch.setattr(finetune_table, "read", lambda name: {"runs": runs, "gate": {"passed": True}})
    (row,) = (line for line in finetune_table.goal().splitlines() if "10 minutes" in line)
    assert "11.0 min of one core: **missed** | 8.0 min of two threads: met" in row
