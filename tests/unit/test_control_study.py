"""The study of the sampler's options: its templates say what the right answers say, with holes of the right size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.studies import control, option_cost
from dgemma.benchmarks.studies.control import STOCK, TEMPLATES, Row, figures
from dgemma.core.shipped import bundle_path
from dgemma.core.template import read_template
from dgemma.runtime.session import Session


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


def test_costs_are_relative_to_no_option_in_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1, 100))
    names = list(option_cost.OPTIONS)
    paces = dict(zip(names, range(1, len(names) + 1), strict=True))

    def seconds(session: object, steps: int, options: dict[str, Any]) -> float:
        name = next(name for name in names if option_cost.OPTIONS[name] is options)
        pace = 1 + (next(clock) - 1) // len(names)  # of the round: the machine slows down from one to the next
        return float(pace * paces[name])

    monkeypatch.setattr(option_cost, "seconds_a_step", seconds)
    costs = option_cost.measure(None, 3, 2)  # type: ignore[arg-type]
    assert [one["ratio"] for one in costs.values()] == [float(pace) for pace in paces.values()]
    assert costs[option_cost.PLAIN]["s_a_step"] == 3.0, "the first round was to be left out"


def test_guided_steps_are_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped bundle, behind few tokens: every option runs, and guidance has a negative prompt."""
    monkeypatch.setattr(option_cost, "PROMPT", 8)
    with Session.load(bundle_path("tiny"), engine="onnx", threads=1) as session:
        costs = option_cost.measure(session, 1, 1)
        prompt, negative = option_cost.prompts(session.manifest.model.vocab_size)
    assert costs.keys() == option_cost.OPTIONS.keys() and all(one["s_a_step"] > 0 for one in costs.values())
    assert prompt != negative and len(prompt) == len(negative) == 8
