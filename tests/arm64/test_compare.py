"""The comparison of two machines' trajectories: bits, decisions, causes; and what of the rest needs no emulator."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import compare
import environment
import run

from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory

N, T = 6, 4
SAMPLER = SamplerConfig(steps=T)


def made(canvases: int = 2, steps: int = 2) -> Trajectory:
    """Canvases of as many steps; everything accepted, entropies of 0.01, 0.02 … times a tenth."""
    rows = canvases * steps
    ids = np.arange(rows * N, dtype=np.int64).reshape(rows, N)
    return Trajectory(
        prompt_ids=np.array([1, 2], np.int64),
        canvas_index=np.repeat(np.arange(canvases), steps),
        step=np.tile(T - np.arange(steps), canvases),
        temperature=np.full(rows, 0.5, np.float32),
        canvas_in=ids,
        argmax=ids + 1,
        entropy=np.tile(np.arange(1, N + 1, dtype=np.float32) / 1000, (rows, 1)),
        accepted=np.ones((rows, N), bool),
        canvas_out=ids + 2,
        tokens=np.arange(5, dtype=np.int64),
    )


def changed(trajectory: Trajectory, name: str, row: int, position: int, value: Any) -> Trajectory:
    array = getattr(trajectory, name).copy()
    array[row, position] = value
    return replace(trajectory, **{name: array})


def figures(other: Trajectory, logits: Any = None) -> dict[str, Any]:
    return compare.compare([made()], [other], [0], SAMPLER, logits)


def counts(found: dict[str, Any]) -> tuple[int, int, int]:
    return found["bit_equal"], found["same_decisions"], found["differing"]


def test_equal_trajectories_are_bit_equal() -> None:
    found = figures(made())
    assert counts(found) == (2, 0, 0) and found["canvases"] == 2
    assert (found["prompts"], found["same_tokens"], found["differences"], found["max_entropy_error"]) == (1, 1, [], 0)
    assert found["entropies"] == found["equal_entropies"] == 4 * N


def test_one_bit_of_an_entropy_is_seen_and_changes_no_decision() -> None:
    value = np.nextafter(made().entropy[2, 3], np.float32(1))
    found = figures(changed(made(), "entropy", 2, 3, value))
    assert counts(found) == (1, 1, 0) and found["differences"] == []
    assert 0 < found["max_entropy_error"] < 1e-8
    assert found["equal_entropies"] == 4 * N - 1


@pytest.mark.parametrize(
    ("name", "value", "rule"), [("argmax", 99, "argmax"), ("canvas_out", 99, "sample"), ("accepted", False, "accept")]
)
def test_a_decision_that_differs_has_a_cause(name: str, value: Any, rule: str) -> None:
    found = figures(changed(made(), name, 1, 2, value))
    assert counts(found) == (1, 0, 1)
    (difference,) = found["differences"]
    assert (difference["prompt"], difference["rule"], difference["row"], difference["position"]) == (0, rule, 1, 2)
    assert (difference["margin"] is None) == (rule != "accept"), "argmax and sample need logits"


def test_margins_come_from_logits() -> None:
    def logits(trajectory: Trajectory, row: int) -> np.ndarray[Any, Any]:
        return np.tile(np.array([0, 3, 3.0005], np.float32), (N, 1))

    (difference,) = figures(changed(made(), "argmax", 1, 2, 99), logits)["differences"]
    assert difference["margin"] == pytest.approx(5e-4, rel=1e-3) and difference["explained"]
    tight = compare.compare([made()], [changed(made(), "argmax", 1, 2, 99)], [0], SAMPLER, logits, {"argmax": 1e-4})
    assert not tight["differences"][0]["explained"]


def test_a_machine_that_stops_earlier_differs() -> None:
    ours = made(canvases=1)
    theirs = replace(
        ours, **{n: a[:1] for n, a in ours.arrays().items() if n not in ("prompt_ids", "tokens")}, tokens=ours.tokens[:2]
    )
    found = compare.compare([ours], [theirs], [0], SAMPLER)
    assert counts(found) == (0, 0, 1) and found["same_tokens"] == 0
    assert found["differences"][0]["rule"] == "stop"


def test_the_line_says_it_all_and_figures_are_json() -> None:
    found = figures(changed(made(), "argmax", 1, 2, 99))
    text = compare.line({"bundle": "w8", "engine": "onnx", "cpu": "cortex-a53", **found})
    for part in ("w8", "onnx", "cortex-a53", "2 canvases: 1 bit-equal", "1 differ (argmax ?)", "1 of 1 answers"):
        assert part in text
    assert json.loads(json.dumps(found)) == found


def test_commands_on_arm64_itself_have_no_emulator(tmp_path: Path) -> None:
    own = environment.Machine(emulator=(), python=("python3",), path=(), facts={})
    emulated = replace(own, emulator=("qemu-aarch64", "-L", "root"), path=(tmp_path,))
    assert own.command("cortex-a53") == ["python3"]
    assert emulated.command("cortex-a53") == ["qemu-aarch64", "-L", "root", "-cpu", "cortex-a53", "python3"]
    assert emulated.environment(Path("src"), tmp_path)["CXX"]
    assert emulated.environment(Path("src"), tmp_path)["PYTHONPATH"].startswith(str(tmp_path))


def test_what_the_host_lacks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(environment.metadata, "version", lambda name: "1")
    monkeypatch.setattr("shutil.which", lambda tool: None)
    with pytest.raises(environment.Missing, match="apt-get is missing; run this on") as caught:
        environment.prepare(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_arm64_machine_is_not_compared_with_itself(tmp_path: Path) -> None:
    check = object.__new__(run.Check)
    check.machine, check.folder = environment.Machine(emulator=(), python=("python3",), path=(), facts={}), tmp_path
    with pytest.raises(environment.Missing, match="copy the trajectories"):
        check.reference("onnx")
    (tmp_path / "onnx-here").mkdir()
    (tmp_path / "onnx-here" / "facts.json").write_text('{"machine": "x86_64"}')
    assert check.reference("onnx") == {"machine": "x86_64"}
