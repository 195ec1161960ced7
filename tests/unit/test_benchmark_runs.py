"""The benchmarks' command lines from end to end, on a toy model in numpy: exit status, what is printed, what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import FakeEngine, write_bundle

from dgemma.benchmarks import demo, report
from dgemma.benchmarks.bench.pairs import GROUPS
from dgemma.benchmarks.studies import evaluate, same_tokens
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session

ANSWER = list(range(200, 240))  # two canvases of 16 and half of a third

Loader = Callable[..., Path]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """A bundle whose sessions run the toy model; `answers` gives each engine its own answer."""

    def make(**answers: list[int]) -> Path:
        answers = answers or {"onnx": ANSWER}
        bundle = write_bundle(tmp_path / "toy.dgemma", tuple(answers))

        def load(path: Path, *, engine: str | None = None, threads: int | None = None) -> Session:
            opened = Bundle.open(path)
            name = engine or "onnx"
            fake = FakeEngine(opened, answers[name])
            fake.name = name  # type: ignore[misc]
            return Session(opened, fake)

        monkeypatch.setattr(Session, "load", load)
        return bundle

    return make


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Items of the tasks that bench groups; one answer in each is right."""
    from dgemma.runtime.tokenizer import load_tokenizer

    bundle = write_bundle(tmp_path / "for_tokenizer.dgemma")
    tokenizer = load_tokenizer(Bundle.open(bundle))
    assert tokenizer is not None
    right = tokenizer.decode(ANSWER)
    names = dict.fromkeys(task for group in GROUPS.values() for task in group)
    items = [{"task": t, "prompt": f"say {i}", "answer": right if i == 0 else "-"} for t in names for i in range(2)]
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    return file


def test_evaluate_writes_figures_of_both_decoders(toy: Loader, tasks: Path, tmp_path: Path, capsys: Any) -> None:
    bundle, out = toy(), tmp_path / "result.json"
    assert evaluate.run([str(bundle), "--tasks", str(tasks), "--out", str(out), "--threads", "1"]) == 0
    result = json.loads(out.read_text())
    assert result["benchmark"] == "evaluate"
    assert len(result["bundle"]["digest"]) == 64
    pooled = result["pooled"]["all tasks"]
    assert pooled["diffusion"]["n"] == pooled["autoregressive"]["n"] == 18
    assert pooled["diffusion"]["right"] == pooled["autoregressive"]["right"] == 9
    assert pooled["autoregressive"]["mean_steps"] == len(ANSWER) + 1
    assert pooled["diffusion"]["mean_steps"] < len(ANSWER) / 2
    assert "all tasks (9)" in capsys.readouterr().out


def test_demo_shows_the_canvas_and_that_engines_agree(toy: Loader, capsys: Any) -> None:
    assert demo.run([str(toy(onnx=ANSWER, executorch=ANSWER)), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "canvas 1 step  1" in printed
    assert f"gave the same tokens on all {len(demo.SHOWN)} prompts" in printed


def test_demo_fails_when_engines_differ(toy: Loader, capsys: Any) -> None:
    assert demo.run([str(toy(onnx=ANSWER, executorch=ANSWER[:-1])), "--threads", "1"]) == 1
    assert "engines differ on reverse" in capsys.readouterr().err


def test_same_tokens_finds_equal_engines_equal_and_others_not(toy: Loader, tasks: Path, tmp_path: Path) -> None:
    bundle, out = toy(onnx=ANSWER, executorch=ANSWER), tmp_path / "report.json"
    options = ["--prompts", str(tasks), "--count", "2", "--seeds", "2", "--out", str(out)]
    assert same_tokens.run([str(bundle), *options]) == 0
    report_ = json.loads(out.read_text())
    assert report_["equal"] == report_["compared"] == {"onnx/graph": 4, "executorch/host": 4, "executorch/graph": 4}


def test_same_tokens_does_not_excuse_another_answer(toy: Loader, tasks: Path) -> None:
    bundle = toy(onnx=ANSWER, executorch=[300, *ANSWER[1:]])
    assert same_tokens.run([str(bundle), "--prompts", str(tasks), "--count", "1", "--seeds", "1"]) == 1


@pytest.mark.parametrize("run", [evaluate.run, demo.run])
def test_a_bad_bundle_is_one_line_and_status_2(run: Callable[[list[str]], int], tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        report.main(lambda: run([str(tmp_path / "absent")]))
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
