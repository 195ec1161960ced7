"""What verify says of generations under options."""

from __future__ import annotations

from typing import Any

from dgemma.verify.text_report import describe

DIFFERENCE: dict[str, Any] = {
    "run": 3, "options": "top_k 2", "row": 1, "canvas": 0, "step": 3, "rule": "sample", "position": 5, "margin": 0.25,
    "entropy_error": 0.0, "limit": 1e-4, "allowed": False,
}  # fmt: skip


def ladder(difference: dict[str, Any], passed: bool) -> dict[str, dict[str, Any]]:
    first: dict[str, Any] = {"golden_runs": 2, "steps": 9, "against": None, "follows": None, "fault": None, "checks": []}
    first |= {"backends_missing": {}, "passed": True}
    check = {"name": "generations with options that diverge without a near-tie", "value": int(not passed), "limit": 0}
    other = {**first, "against": "torch", "passed": passed, "checks": [{**check, "passed": passed}]}
    fused = {"drawn": 4, "equal": 4, "differences": []}
    return {
        "torch": {**first, "options": {"drawn": 5, "against": None, "changed": 4, "checks": []}},
        "onnx": {
            **other,
            "options": {"drawn": 5, "against": "torch", "equal": 4, "differences": [difference], "fused": fused, "checks": []},
        },
    }


def test_how_many_are_equal_and_which_option_differs() -> None:
    lines = describe("b.dgemma", "ladder", ladder(DIFFERENCE, passed=False))
    place = "top_k 2 (draw 4) differs from step 2 on (canvas 1, position 5): another token drawn, by a margin of 0.25"
    assert "torch: 5 generations with options; the options change 4 of them" in lines
    assert "onnx: 4 of 5 generations with options equal to torch's" in lines
    assert "onnx: 4 of 4 fused generations with options equal to the host loop's" in lines
    assert f"  {place}, more than the 0.0001 of a near-tie: NOT ALLOWED" in lines
    assert lines[-1].strip().startswith(place)  # once more, under what missed


def test_a_near_tie_is_allowed_and_other_weights_are_not_judged() -> None:
    near = ladder({**DIFFERENCE, "margin": 1e-6, "allowed": True}, passed=True)
    assert any(line.endswith("a near-tie, which is allowed up to 0.0001") for line in describe("b.dgemma", "ladder", near))
    other = ladder({**DIFFERENCE, "margin": None, "limit": None, "allowed": None}, passed=True)
    assert any(line.endswith("not judged, because the weights differ") for line in describe("b.dgemma", "ladder", other))
