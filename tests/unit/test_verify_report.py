"""The report: drawn from figures alone, self-contained, careful with what lies in its folder. And figures of made-up runs."""

from __future__ import annotations

import copy
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest

from dgemma.core.errors import UsageError
from dgemma.core.prompts import TaskPrompt
from dgemma.core.trajectory import Trajectory
from dgemma.verify import free_running, gate, outcome, report, teacher_forced, text_report
from dgemma.verify.divergence import Divergence
from dgemma.verify.plots import _spread
from dgemma.verify.torch_backend import TorchBackend

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def trajectory() -> Trajectory:
    return TorchBackend(micro.model(), micro.POLICY, micro.N).trajectory(micro.prompt(9), 0, 16)


def made_up(trajectory: Trajectory, right: dict[str, int], steps: dict[str, int], n: int = 10) -> list[free_running.Run]:
    """n runs of which the first `right` are right."""
    difference = Divergence(row=0, canvas=0, step=4, rule="accept", position=1, margin=0.015, entropy_error=1e-3)
    return [
        free_running.Run(
            item=TaskPrompt(task="a" if i % 2 else "b", prompt="p", answer=" yes "),
            reference=trajectory,
            artifact=trajectory,
            steps=steps,
            texts={name: "yes\n" if i < right[name] else "no" for name in free_running.DECODERS},
            difference=None if i else difference,
        )
        for i in range(n)
    ]


def test_figures_of_runs(trajectory: Trajectory) -> None:
    right, steps = {"float": 8, "artifact": 7, "autoregressive": 9}, {"float": 4, "artifact": 5, "autoregressive": 20}
    found = free_running.figures(made_up(trajectory, right, steps), 2)
    assert found["step_inflation"] == {"value": 1.25, "low": 1.25, "high": 1.25}
    assert {name: exact["right"] for name, exact in found["exact_match"].items()} == right
    assert found["exact_match_loss"]["value"] == pytest.approx(0.1) and found["gain_over_autoregressive"]["value"] == -0.2
    assert found["tasks"] == {
        "b": {"n": 5, "float": 4, "artifact": 4, "autoregressive": 5},
        "a": {"n": 5, "float": 4, "artifact": 3, "autoregressive": 4},
    }
    assert (found["prompts"], found["left_out"], found["equal_trajectories"], found["same_tokens"]) == (10, 2, 9, 10)
    accept = found["differences"]["by_rule"]["accept"]
    assert (accept["count"], accept["near_ties"], accept["close"], accept["median_margin"]) == (1, 0, 1, 0.015)
    json.dumps(found, allow_nan=False)


def step(index: int, kl: float | None = 1e-4) -> teacher_forced.ForcedStep:
    same = np.array([True] * 15 + [index != 2])
    errors = np.linspace(1e-5, 1e-2 * index, 16)
    kls = None if kl is None else np.full(16, kl)
    return teacher_forced.ForcedStep(
        place=teacher_forced.Place(run=0, row=index - 1),
        index=index,
        same=same,
        canvas=same,
        jaccard=0.98,
        entropy_error=errors,
        kl=kls,
        gaps=np.full(int(index == 2), 0.03),
        logits_error=None if kl is None else 1e-3,
        soft_error=1e-2,
    )


def figures(trajectory: Trajectory, *, kl: float | None = 1e-4, recipe: str = "w8", answers: bool = True) -> dict[str, Any]:
    """One engine's section of verify.json."""
    runs = made_up(trajectory, dict.fromkeys(free_running.DECODERS, 8), {"float": 4, "artifact": 5, "autoregressive": 20})
    ran = free_running.figures(runs, 0)
    if not answers:
        ran |= {"exact_match": None, "exact_match_loss": None, "tasks": {}}
    forced = teacher_forced.TeacherForced(steps=[step(i, kl) for i in (1, 1, 2, 2, 3)])
    forced.soft.add(np.ones(3), np.ones(3) * 1.01)
    forced.keys[0], forced.values[0] = forced.soft, forced.soft
    fed = forced.figures(None if kl is not None else "no <logits> here")
    checks = gate.judge(recipe, ran, fed)
    return {
        "date": "2026-01-02",
        "tools": {"dgemma": "0"},
        "machine": "x86_64",
        "recipe": recipe,
        "reference": "torch",
        "checkpoint": {"name": "tiny", "files": {"config.json": "ab" * 32}, "same": True},
        "other_checkpoint": False,
        "prompts": {"file": "p.jsonl", "count": 10},
        "max_steps": 16,
        "checks": [c.to_dict() for c in checks],
        "passed": all(c.passed for c in checks),
        "free_running": ran,
        "teacher_forced": fed,
    }


class Page(HTMLParser):
    """Tags, the addresses they load, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_pictures_and_one_page_that_loads_nothing(trajectory: Trajectory, tmp_path: Path) -> None:
    found = {"onnx": figures(trajectory)}
    others = {"w4, onnx": figures(trajectory, recipe="w4")}
    written = report.write(tmp_path / "r", "<b>&.dgemma", found, others)
    assert [p.name for p in written] == ["agreement-onnx.png", "entropy-onnx.png", "accuracy.png", "report.html"]
    assert all(p.read_bytes().startswith(PNG) for p in written[:3])
    text = written[-1].read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("img") == 3 and "script" not in page.tags and "link" not in page.tags and "b" not in page.tags
    assert all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert "MISSED  <b>&.dgemma on onnx: step inflation 1.25 (limit 1.02)" in page.text
    assert page.text.index("MISSED") < page.text.index("Accuracy against steps")
    assert "w4, onnx" in page.text and "80.0% (49.0% … 94.3%)" in page.text
    assert report.write(tmp_path / "r", "<b>&.dgemma", found, others) == written  # over its own files
    assert written[-1].read_text() == text and len(list((tmp_path / "r").iterdir())) == 4


def test_without_logits_or_answers_it_says_so(trajectory: Trajectory, tmp_path: Path) -> None:
    found = {"executorch": figures(trajectory, kl=None, answers=False)}
    written = report.write(tmp_path / "r", "x", found, {})
    assert [p.name for p in written] == ["agreement-executorch.png", "entropy-executorch.png", "report.html"]
    assert "not known" in written[-1].read_text() and "no answers" in written[-1].read_text()
    assert any("not known: no <logits> here" in line for line in text_report.describe("x", "float", found))


def test_prompts_that_the_float_model_cannot_answer_are_said_to_judge_nothing(trajectory: Trajectory) -> None:
    found, line = figures(trajectory), "exact match is not judged"
    assert not any(line in one for one in text_report.describe("x", "float", {"onnx": found}))
    found["free_running"]["exact_match"]["float"]["right"] = 0
    assert any(line in one for one in text_report.describe("x", "float", {"onnx": found}))


def test_figures_that_are_not_finite_are_drawn_as_gaps(trajectory: Trajectory, tmp_path: Path) -> None:
    found = figures(trajectory, kl=float("nan"))
    assert not found["passed"] and found["teacher_forced"]["not_finite"] == 5
    json.dumps(found, allow_nan=False)
    assert report.write(tmp_path / "r", "x", {"onnx": found}, {})
    assert any("figures that are not finite 5" in line for line in text_report.describe("x", "float", {"onnx": found}))


def test_other_files_are_left_alone_and_odd_ones_are_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    report.check_folder(tmp_path)
    report.check_folder(tmp_path / "new")
    with pytest.raises(UsageError, match="is a file"):
        report.check_folder(tmp_path / "notes.txt")
    with pytest.raises(UsageError, match="does not exist"):
        report.check_folder(tmp_path / "a" / "b")
    (tmp_path / "report.html").symlink_to(tmp_path / "notes.txt")
    with pytest.raises(UsageError, match="in the way"):
        report.check_folder(tmp_path)
    (tmp_path / "report.html").unlink()
    (tmp_path / "accuracy.png").mkdir()
    with pytest.raises(UsageError, match="in the way"):
        report.check_folder(tmp_path)
    monkeypatch.setattr(report.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"\[bench\]"):
        report.check_folder(tmp_path / "new")


def test_a_full_disk_is_one_line(trajectory: Trajectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        report.write(tmp_path / "r", "x", {"onnx": figures(trajectory)}, {})
    assert list((tmp_path / "r").iterdir()) == []


def test_comparisons_are_read_from_files_or_bundles_and_damage_is_named(trajectory: Trajectory, tmp_path: Path) -> None:
    found = {"onnx": figures(trajectory)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        outcome.write(tmp_path / name, outcome.merged(tmp_path / name, "ab" * 32, {"float": found}))
    others = report.read_others([tmp_path / "one", outcome.place(tmp_path / "two")])
    assert list(others) == ["w8, onnx", f"w8, onnx, {outcome.place(tmp_path / 'two')}"]
    with pytest.raises(UsageError, match="holds no comparison"):
        report.read_others([tmp_path / "none.json"])
    broken = copy.deepcopy(found)
    del broken["onnx"]["free_running"]["exact_match"]["float"]["low"]
    outcome.write(tmp_path / "one", outcome.merged(tmp_path / "one", "cd" * 32, {"float": broken}))
    with pytest.raises(UsageError, match="is damaged"):
        report.read_others([outcome.place(tmp_path / "one")])


def test_points_that_would_hide_one_another_are_moved_apart() -> None:
    assert _spread([1.0, 5.0, 3.0], 0.5) == [1.0, 5.0, 3.0]
    assert _spread([2.0, 2.0], 0.5) == [1.75, 2.25]
    assert _spread([2.0, 1.9, 2.1, 9.0], 1.0) == [2.0, 1.0, 3.0, 9.0]
    placed = sorted(_spread(np.random.default_rng(0).normal(0, 1, 30).tolist(), 0.2))
    assert min(np.diff(placed)) > 0.2 - 1e-9


def test_a_trajectory_that_differs_is_explained() -> None:
    at = {"run": 4, "row": 2, "canvas": 0, "step": 14, "position": 10, "rule": "accept", "margin": 0.0019, "limit": 0.1}
    found: dict[str, Any] = {
        "onnx": {
            "steps": 30,
            "golden_runs": 5,
            "recorded": {"equal": 4, "differences": [{**at, "allowed": True}]},
            "fused": {"equal": 5, "differences": []},
            "passed": True,
            "backends_missing": {},
        }
    }
    *_, recorded, difference, fused, outcome = text_report.describe("tiny", "ladder", found)
    assert recorded == "onnx: 4 of 5 golden trajectories equal to those recorded at export"
    assert fused.startswith("onnx: 5 of 5 golden trajectories of the fused graph equal")
    assert difference == (
        "  prompt 5 differs from step 3 on (canvas 1, position 10): other positions accepted, by a margin of 0.0019: "
        "a near-tie, which is allowed up to 0.1"
    )
    assert outcome == "PASSED  tiny: 1 backend, 5 golden prompts, as recorded except for near-ties: onnx"
    for more, says in (
        ({"margin": None, "allowed": None}, "not known: NOT ALLOWED"),
        ({"allowed": False}, "a near-tie: NOT ALLOWED"),
    ):
        found["onnx"]["recorded"]["differences"] = [{**at, **more}]
        assert any(line.endswith(says) for line in text_report.describe("tiny", "ladder", found))


def test_pictures_of_an_npu_are_named_by_letters(trajectory: Trajectory, tmp_path: Path) -> None:
    written = report.write(tmp_path / "r", "x", {"onnx/qnn (emulated)": figures(trajectory, answers=False)}, {})
    assert [p.name for p in written[:2]] == ["agreement-onnx-qnn-emulated.png", "entropy-onnx-qnn-emulated.png"]
    assert written[-1].read_text().count("<img") == 2
