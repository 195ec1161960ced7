"""The studies of the NPU's recipes: what goes on from an earlier run, and what one variant costs in a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import micro
import pytest

from dgemma.benchmarks.studies import npu, npu_ablation
from dgemma.benchmarks.studies.npu_ablation import PRODUCTS, Step, Variant, judge, sessions, steps
from dgemma.core.errors import UsageError
from dgemma.core.prompts import TaskPrompt
from dgemma.quantize.integers import quantize
from dgemma.quantize.ranges import ranges
from dgemma.quantize.recipes import find
from dgemma.verify.torch_backend import TorchBackend

SETTINGS: dict[str, Any] = {"bundle": "abc", "seed": 0}


def asked(right: bool, steps: int) -> dict[str, Any]:
    return {
        "task": "t", "steps": {"float": 2, "npu": steps}, "right": {"float": True, "npu": right}, "same_tokens": right,
        "parted_by": None if right else "argmax",
    }  # fmt: skip


def test_a_study_goes_on_from_its_own_file_and_from_no_other(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert npu.answers(out, SETTINGS) == npu.answers(None, SETTINGS) == ([], 0.0)
    out.write_text(json.dumps({**SETTINGS, "asked": [asked(True, 2)], "seconds": 7.5}))
    assert npu.answers(out, SETTINGS) == ([asked(True, 2)], 7.5)
    with pytest.raises(UsageError, match=r"r\.json: holds figures of another bundle, checkpoint or seed; remove it"):
        npu.answers(out, {**SETTINGS, "bundle": "other"})
    out.write_text("{")
    with pytest.raises(UsageError, match=r"r\.json: cannot be read"):
        npu.answers(out, SETTINGS)


def test_figures_of_what_was_asked() -> None:
    found = npu.figures([asked(True, 2), asked(False, 3)])
    assert found["exact_match_loss"]["value"] == 0.5 and found["step_inflation"]["value"] == 1.25
    assert found["parted_by"] == {"argmax": 1} and found["equal_trajectories"] == 1


def test_any_beginning_of_the_prompts_is_spread_over_the_tasks() -> None:
    items = [TaskPrompt(task=task, prompt=(i,)) for i, task in enumerate("aabbc")]
    assert [item.task for item in npu.spread(items)] == ["a", "b", "c", "a", "b"]


def test_a_variant_costs_what_it_rounds(tmp_path: Path) -> None:
    model = micro.model().eval()
    taken: list[Step] = list(steps(model, TorchBackend(model, micro.POLICY, micro.N), [micro.prompt(11)]))
    assert len(taken) >= micro.T and {s.slots for s in taken} <= set(npu_ablation.SLOTS)
    quantized = quantize(model, find("w8a16"))
    seen = ranges(model, micro.POLICY, [micro.prompt(11)], quantized)

    def cost(name: str, headroom: float, integers: bool = True) -> float:
        variant = Variant(name=name, recipe="w8a16", rounded=PRODUCTS, headroom=headroom)
        folder = tmp_path / name
        folder.mkdir()
        made = sessions(model, quantized if integers else {}, seen, variant, folder, {s.slots for s in taken})
        return float(judge(model, made, taken)["kl_mean"])

    nothing, right, clipped = cost("float", 2.0, integers=False), cost("right", 2.0), cost("clipped", 0.1)
    assert nothing < 1e-6 < right < clipped / 10
