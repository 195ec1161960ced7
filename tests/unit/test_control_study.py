"""The study of the sampler's options: its templates say what the right answers say, with holes of the right size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.studies import control
from dgemma.benchmarks.studies.control import STOCK, TEMPLATES, Row, figures
from dgemma.core.template import read_template


def item(task: str, prompt: str, answer: str) -> EvalItem:
    return EvalItem(task=task, prompt=prompt, answer=answer)


ITEMS = [
    (
        item("sudoku", "Solve the sudoku ..2. ..14 143. 3.4.", "4123 2314 1432 3241"),
        "{{1}}{{1}}2{{1}} {{1}}{{1}}14 143{{1}} 3{{1}}4{{1}}",
    ),
    (
        item("to_json", "As JSON: …", '{"name": "Paula", "city": "Zurich", "age": 30}'),
        '{"name": {{7}}, "city": {{8}}, "age": {{2}}}',
    ),
    (item("letter", "…", "Dear Carla, you are welcome at noon."), "{{19}} welcome at noon."),
]


@pytest.mark.parametrize(("given", "template"), ITEMS, ids=lambda value: getattr(value, "task", ""))
def test_templates_are_the_right_answers_with_holes(given: EvalItem, template: str) -> None:
    made = TEMPLATES[given.task](given, len)  # a token is a character here
    assert made == template
    assert sum(piece if isinstance(piece, int) else len(piece) for piece in read_template(made)) == len(given.answer)


def test_figures_are_paired() -> None:
    own = [Row(task="t", right=right, steps=steps) for right, steps in ((True, 2), (True, 4), (False, 6))]
    other = [Row(task="t", right=False, steps=1)] * 3
    found = figures(own, other)
    assert (
        found["exact"] == pytest.approx(2 / 3) and found["mean_steps"] == 4 and found["difference"]["value"] == found["exact"]
    )
    assert figures(own, own)["difference"]["value"] == 0


def test_a_run_of_one_prompt_a_task(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    given = [
        {"task": "reverse", "prompt": "Write boip backwards.", "answer": "piob"},
        {"task": "sudoku", "prompt": ITEMS[0][0].prompt, "answer": ITEMS[0][0].answer},
    ]
    tasks.write_text("".join(json.dumps(one) + "\n" for one in given))
    assert control.run(["--tasks", str(tasks), "--per-task", "1", "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["sampled"][STOCK]["n"] == 2 and set(found["sampled"]) == set(control.OPTIONS)
    assert found["templates"]["sudoku"]["template"]["exact"] == 1.0
