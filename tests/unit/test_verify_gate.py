"""Limits, checks, and the outcome that is kept: what passes, what misses, and what readers make of a damaged file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgemma.core.errors import UsageError
from dgemma.core.prompts import TaskPrompt, evenly, held_out, read, spaced
from dgemma.verify import outcome
from dgemma.verify.against_float import COUNT
from dgemma.verify.gate import OTHERS, STRICT, Check, Limits, judge, limits_of
from dgemma.verify.text_report import outcome_lines

DIGEST = "ab" * 32


def free(inflation: float, loss: float | None, right: int = 1) -> dict[str, Any]:
    if loss is None:
        return {"step_inflation": {"value": inflation}, "exact_match": None, "exact_match_loss": None}
    exact = {"float": {"right": right}}
    return {"step_inflation": {"value": inflation}, "exact_match": exact, "exact_match_loss": {"value": loss}}


@pytest.mark.parametrize(
    ("recipe", "inflation", "points", "missed"),
    [
        ("w8", 1.02, 0.5, []),
        ("w8", 1.0201, 0.5, ["step inflation"]),
        ("fp32", 1.0, 0.51, ["exact match below float, in points"]),
        ("w8", 0.9, -3.0, []),  # better than float is no miss
        ("w4-mixed", 1.10, 2.0, []),
        ("w4-mixed", 1.11, 2.1, ["exact match below float, in points", "step inflation"]),
        ("of-somebody", 1.05, 1.0, []),
    ],
)
def test_limits_hold_to_the_digit(recipe: str, inflation: float, points: float, missed: list[str]) -> None:
    checks = judge(recipe, free(inflation, points / 100), {"not_finite": 0})
    assert [c.name for c in checks if not c.passed] == missed


def test_three_of_600_prompts_are_half_a_point() -> None:
    assert judge("w8", free(1.0, 527 / 600 - 524 / 600), {"not_finite": 0})[0].passed
    assert not judge("w8", free(1.0, 527 / 600 - 523 / 600), {"not_finite": 0})[0].passed


def test_a_float_model_without_a_right_answer_cannot_judge_exact_match() -> None:
    one, none = ([c.name for c in judge("w8", free(1.0, 0.0, right), {"not_finite": 0})] for right in (1, 0))
    assert one == ["exact match below float, in points", *none] and len(none) == 2


def test_nan_does_not_pass() -> None:
    for value in (None, float("nan"), float("inf")):
        check = Check(name="x", value=value, limit=1e9)
        assert not check.passed
        assert check.to_dict() == {"name": "x", "value": None, "limit": 1e9, "passed": False}
    assert not judge("w8", free(float("nan"), 0.0), {"not_finite": 0})[1].passed
    assert not judge("w8", free(1.0, 0.0), {"not_finite": 1})[-1].passed
    assert [c.passed for c in judge("w8", free(1.0, None), {"not_finite": 0})] == [True, True]


def test_limits_are_by_recipe_and_sane() -> None:
    assert limits_of("w8") == limits_of("w8a16") == limits_of("fp32") == STRICT
    assert limits_of("w4-mixed") == limits_of("w4a16-mixed") == limits_of("w4") == limits_of("unknown") == OTHERS
    for loss, inflation in ((-0.1, 1.0), (0.0, 0.9), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="exact_match_loss"):
            Limits(exact_match_loss=loss, step_inflation=inflation)


def test_a_miss_names_figure_value_and_limit() -> None:
    checks = [c.to_dict() for c in judge("w8", free(1.25, 0.0), {"not_finite": 0})]
    (line,) = outcome_lines("b.dgemma", "onnx", {"passed": False, "checks": checks})
    assert line == "MISSED  b.dgemma on onnx: step inflation 1.25 (limit 1.02)"


def values(passed: bool = True) -> dict[str, dict[str, Any]]:
    check = Check(name="step inflation", value=1.0 if passed else 2.0, limit=1.02)
    return {"onnx": {"passed": passed, "date": "2026-01-02", "checks": [check.to_dict()]}}


def test_sections_are_kept_for_one_digest_and_dropped_for_another(tmp_path: Path) -> None:
    outcome.write(tmp_path, outcome.merged(tmp_path, DIGEST, {"ladder": values()}))
    outcome.write(tmp_path, outcome.merged(tmp_path, DIGEST, {"float": values(False)}))
    found, problem = outcome.read(tmp_path)
    assert problem is None and found is not None
    assert list(found) == ["format", "digest", "passed", "float", "ladder"] and found["passed"] is False
    lines = outcome.lines(found, DIGEST)
    assert lines[0] == "verify        FAILED"
    assert "    step inflation: 2 (limit 1.02)  MISSED" in lines
    assert outcome.merged(tmp_path, "cd" * 32, {"ladder": values()}) == {
        "format": 2,
        "digest": "cd" * 32,
        "passed": True,
        "ladder": values(),
    }
    assert "for another bundle" in outcome.lines(found, "cd" * 32)[0] and len(outcome.lines(found, "cd" * 32)) == 1
    assert list(tmp_path.iterdir()) == [] and outcome.place(tmp_path).name == f"{tmp_path.name}.verify.json"  # beside it
    assert not list(tmp_path.parent.glob(".*verify.json*"))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 2}', b'{"format": "1", "digest": "a", "passed": true}',
        b'{"format": 2, "digest": 3, "passed": true}', b'{"format": 2, "digest": "a", "passed": 1}',
        b'{"format": 2, "digest": "a", "passed": true, "ladder": []}',
        b'{"format": 2, "digest": "a", "passed": true, "float": {"onnx": {}}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_file_is_said_to_be_so(tmp_path: Path, content: bytes) -> None:
    outcome.place(tmp_path).write_bytes(content)
    found, problem = outcome.read(tmp_path)
    assert found is None and problem is not None and "damaged" in problem and "\n" not in problem
    outcome.write(tmp_path, outcome.merged(tmp_path, DIGEST, {"ladder": values()}))  # and replaced by the next outcome
    assert outcome.read(tmp_path)[1] is None


def test_odd_but_well_formed_values_do_not_trip_readers(tmp_path: Path) -> None:
    for section in ({"passed": True}, {"passed": True, "checks": 3}, {"passed": True, "checks": [None, {}], "prompts": []}):
        outcome.place(tmp_path).write_text(
            json.dumps({"format": 2, "digest": DIGEST, "passed": True, "ladder": {"onnx": section}})
        )
        found, _ = outcome.read(tmp_path)
        assert found is not None and outcome.lines(found, DIGEST)
    outcome.place(tmp_path).write_text(json.dumps({"format": 3}))
    assert "newer" in str(outcome.read(tmp_path)[1])


def test_links_and_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(json.dumps({"format": 2, "digest": DIGEST, "passed": True}))
    outcome.place(tmp_path).symlink_to(tmp_path / "elsewhere")
    assert outcome.read(tmp_path)[0] is None
    outcome.place(tmp_path).unlink()
    outcome.place(tmp_path).mkdir()
    assert outcome.read(tmp_path)[0] is None
    with pytest.raises(UsageError, match=r"verify\.json: cannot be written"):
        outcome.write(tmp_path, {})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome.write(tmp_path, outcome.merged(tmp_path, DIGEST, {"ladder": values()}))
    before = outcome.place(tmp_path).read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        outcome.write(tmp_path, outcome.merged(tmp_path, DIGEST, {"ladder": values(False)}))
    assert outcome.place(tmp_path).read_bytes() == before and list(tmp_path.iterdir()) == []
    assert not list(tmp_path.parent.glob(".*verify.json*"))


def test_an_outcome_inside_a_bundle_is_read_where_none_is_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "b.dgemma"
    bundle.mkdir()
    old = outcome.merged(bundle, DIGEST, {"ladder": values()})
    (bundle / outcome.FILE).write_text(json.dumps(old))
    monkeypatch.chdir(bundle)
    assert outcome.read(Path(".")) == outcome.read(bundle) == (old, None)
    new = outcome.merged(bundle, DIGEST, {"ladder": values(False)})
    outcome.write(Path("."), new)
    assert outcome.read(bundle) == (new, None) and json.loads((tmp_path / "b.dgemma.verify.json").read_text()) == new


def test_the_committed_prompts_are_even_over_the_tasks() -> None:
    items = evenly(read(held_out()), COUNT)
    counts = np.unique([item.task for item in items], return_counts=True)[1]
    assert len(items) == COUNT == 612 and counts.tolist() == [36] * 17
    assert all(item.answer for item in items)


def test_prompts_are_shared_out_in_turns() -> None:
    prompts = [TaskPrompt(task=t, prompt=f"{t}{i}") for t, n in (("a", 1), ("b", 5), ("c", 3)) for i in range(n)]
    assert [i.prompt for i in evenly(prompts, 6)] == ["a0", "b0", "b1", "b2", "c0", "c1"]
    assert len(evenly(prompts, 99)) == len(spaced(prompts, 99)) == 9
    assert [i.prompt for i in spaced(prompts, 3)] == ["a0", "b2", "c0"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"prompt": "a"}\nno\n', r"p\.jsonl:2"),
        ('{"prompt": 3}', r"p\.jsonl:1"),
        ("[]", r"p\.jsonl:1"),
        ('{"prompt": "a", "answer": 4}', r"p\.jsonl:1"),
        ('{"prompt": ""}', r"p\.jsonl:1"),
        ("\n", "holds no prompts"),
    ],
)
def test_bad_prompt_files_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "none.jsonl")
