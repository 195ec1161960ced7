"""Teacher-forced figures of micro artifacts: float32 is float, other weights are not, and logits are those of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import micro
import micro_bundle
import numpy as np
import pytest

from dgemma.runtime.bundle import Bundle
from dgemma.verify import teacher
from dgemma.verify.eager import Eager
from dgemma.verify.logits import LogitsEngine
from dgemma.verify.replay import OwnLogits

SEED = 3


def quietly(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


@pytest.fixture(scope="module")
def eager() -> Eager:
    return Eager(micro.model(), micro.POLICY, micro.N)


def forced_figures(path: Path, engine: str, model: Eager) -> dict[str, Any]:
    """Two prompts, the second of two canvases."""
    opened, without = teacher.open_forced(Bundle.open(path), engine, 1)
    trajectories = [model.trajectory(micro.prompt(n), SEED, most) for n, most in ((11, 16), (20, 32))]
    assert {int(c) for c in trajectories[1].canvas_index} == {0, 1}
    figures = teacher.compare(opened, model, trajectories, SEED, quietly).figures(without)
    opened.close()
    assert figures["steps"] == sum(len(t.step) for t in trajectories)
    return figures


@pytest.fixture(scope="module")
def same(eager: Eager) -> dict[str, Any]:
    return forced_figures(micro_bundle.bundle("onnx"), "onnx", eager)


def test_a_float_artifact_is_the_float_model(same: dict[str, Any]) -> None:
    assert same["not_finite"] == 0 and same["same_argmax"] == 1.0 and same["flips"]["count"] == 0
    assert same["kl"]["max"] < 1e-7 and same["entropy_error"]["max"] < 1e-3
    assert min(same["sqnr_db"].values()) > 80
    assert [row["step"] for row in same["by_step"]] == list(range(1, micro.T + 1))
    assert sum(row["canvases"] for row in same["by_step"]) == same["steps"]


def test_other_weights_are_seen_in_every_figure(same: dict[str, Any]) -> None:
    other = forced_figures(micro_bundle.bundle("onnx"), "onnx", Eager(micro.model(seed=1), micro.POLICY, micro.N))
    assert other["same_argmax"] < 0.5 and other["jaccard"] < 0.9 and other["flips"]["count"] > other["flips"]["close"]
    assert other["kl"]["mean"] > 0.1 and other["entropy_error"]["mean"] > 0.01
    assert max(other["sqnr_db"].values()) < 20


def test_eight_bits_lie_between(same: dict[str, Any], eager: Eager) -> None:
    found = forced_figures(micro_bundle.bundle("onnx", "w8"), "onnx", eager)
    assert found["not_finite"] == 0
    assert same["kl"]["mean"] < found["kl"]["mean"] < 1.0
    assert 10 < found["sqnr_db"]["next_soft"] < same["sqnr_db"]["next_soft"]


@pytest.mark.slow
def test_executorch_says_that_it_has_no_logits(eager: Eager) -> None:
    found = forced_figures(micro_bundle.bundle("executorch"), "executorch", eager)
    assert found["kl"] is None and "executorch" in found["kl_missing"]
    assert all(row["kl"] is None for row in found["by_step"])
    assert found["same_argmax"] == 1.0 and min(found["sqnr_db"].values()) > 80


def test_nan_is_counted(eager: Eager) -> None:
    trajectory = eager.trajectory(micro.prompt(11), SEED, 16)
    engine, without = teacher.open_forced(Bundle.open(micro_bundle.bundle("onnx")), "onnx", 1)
    run = engine.run

    def broken(graph: str, feeds: Any) -> Any:
        outputs = run(graph, feeds)
        if graph == "denoise":
            outputs["entropy"][0, 3] = np.nan
        return outputs

    engine.run = broken  # type: ignore[method-assign]
    figures = teacher.compare(engine, eager, [trajectory], SEED, quietly).figures(without)
    assert figures["not_finite"] == len(trajectory.step) and figures["entropy_error"]["mean"] is None


def test_own_logits_belong_to_their_row(eager: Eager) -> None:
    """Of the artifact, replayed over two canvases: what its argmax and entropy were made from."""
    trajectory = eager.trajectory(micro.prompt(20), SEED, 32)
    engine, _ = teacher.open_forced(Bundle.open(micro_bundle.bundle("onnx")), "onnx", 1)
    assert isinstance(engine, LogitsEngine)
    logits = OwnLogits(engine, SEED)
    for row in (0, 2, len(trajectory.step) - 1):
        mine, reference = logits(trajectory, row), eager.logits(trajectory, row)
        assert mine.shape == (micro.N, micro.VOCAB) and np.allclose(mine, reference, atol=1e-2)
        assert np.array_equal(mine.argmax(-1), trajectory.argmax[row])


def test_the_bundle_is_not_touched(eager: Eager) -> None:
    path = micro_bundle.bundle("onnx")
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    teacher.open_forced(Bundle.open(path), "onnx", 1)[0].prepare("denoise")
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_a_bundle_without_logits_is_still_compared(eager: Eager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgemma.verify.logits.NAME", "elsewhere")
    opened, without = teacher.open_forced(Bundle.open(micro_bundle.bundle("onnx")), "onnx", 1)
    assert without is not None and "has no value 'elsewhere'" in without
    figures = teacher.compare(opened, eager, [eager.trajectory(micro.prompt(9), SEED, 16)], SEED, quietly).figures(without)
    assert figures["kl"] is None and figures["same_argmax"] == 1.0
