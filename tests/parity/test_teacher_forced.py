"""Teacher-forced figures of micro artifacts: float32 is float, other weights are not, and logits are those of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import micro
import micro_bundle
import numpy as np
import pytest

from dgemma.runtime.bundle import Bundle
from dgemma.verify import teacher_forced
from dgemma.verify.engine_backend import EngineBackend, open_forced
from dgemma.verify.torch_backend import TorchBackend

SEED = 3


def quietly(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


@pytest.fixture(scope="module")
def eager() -> TorchBackend:
    return TorchBackend(micro.model(), micro.POLICY, micro.N)


def forced_figures(backend: EngineBackend, model: TorchBackend) -> dict[str, Any]:
    """Two prompts, the second of two canvases."""
    trajectories = [model.trajectory(micro.prompt(n), SEED, most) for n, most in ((11, 16), (20, 32))]
    assert {int(c) for c in trajectories[1].canvas_index} == {0, 1}
    pair = (model.name, backend.name)
    found = teacher_forced.force([model, backend], [pair], model, [(SEED, t) for t in trajectories], quietly)[pair]
    figures = found.figures(backend.without_logits)
    backend.close()
    assert figures["steps"] == sum(len(t.step) for t in trajectories)
    return figures


def onnx(recipe: str = "fp32") -> EngineBackend:
    return EngineBackend(Bundle.open(micro_bundle.bundle("onnx", recipe)), "onnx", 1)


@pytest.fixture(scope="module")
def same(eager: TorchBackend) -> dict[str, Any]:
    return forced_figures(onnx(), eager)


def test_a_float_artifact_is_the_float_model(same: dict[str, Any]) -> None:
    assert same["not_finite"] == 0 and same["same_argmax"] == 1.0 and same["flips"]["count"] == 0
    assert same["kl"]["max"] < 1e-7 and same["entropy_error"]["max"] < 1e-3
    assert min(same["sqnr_db"].values()) > 80 and same["log_probs_error"] < 1e-5
    assert [row["step"] for row in same["by_step"]] == list(range(1, micro.T + 1))
    assert sum(row["canvases"] for row in same["by_step"]) == same["steps"]


def test_other_weights_are_seen_in_every_figure(same: dict[str, Any]) -> None:
    other = forced_figures(onnx(), TorchBackend(micro.model(seed=1), micro.POLICY, micro.N))
    assert other["same_argmax"] < 0.5 and other["jaccard"] < 0.9 and other["flips"]["count"] > other["flips"]["close"]
    assert other["kl"]["mean"] > 0.1 and other["entropy_error"]["mean"] > 0.01 and other["log_probs_error"] > 1e-2
    assert max(other["sqnr_db"].values()) < 20


def test_eight_bits_lie_between(same: dict[str, Any], eager: TorchBackend) -> None:
    found = forced_figures(onnx("w8"), eager)
    assert found["not_finite"] == 0
    assert same["kl"]["mean"] < found["kl"]["mean"] < 1.0
    assert 10 < found["sqnr_db"]["next_soft"] < same["sqnr_db"]["next_soft"]


@pytest.mark.slow
def test_executorch_says_that_it_has_no_logits(eager: TorchBackend) -> None:
    found = forced_figures(EngineBackend(Bundle.open(micro_bundle.bundle("executorch")), "executorch", 1), eager)
    assert found["kl"] is None and "executorch" in found["kl_missing"]
    assert all(row["kl"] is None for row in found["by_step"])
    assert found["same_argmax"] == 1.0 and min(found["sqnr_db"].values()) > 80


def test_nan_is_counted(eager: TorchBackend) -> None:
    backend = onnx()
    step = backend.step

    def broken(*args: Any, **kwargs: Any) -> Any:
        out = step(*args, **kwargs)
        out.entropy[3] = np.nan
        return out

    backend.step = broken  # type: ignore[method-assign]
    figures = forced_figures(backend, eager)
    assert figures["not_finite"] == figures["steps"] and figures["entropy_error"]["mean"] is None


def test_own_logits_belong_to_their_row(eager: TorchBackend) -> None:
    """Of the artifact, replayed over two canvases: what its argmax and entropy were made from."""
    trajectory = eager.trajectory(micro.prompt(20), SEED, 32)
    backend = onnx()
    for row in (0, 2, len(trajectory.step) - 1):
        mine, reference = backend.logits(trajectory, row), eager.logits(trajectory, row)
        assert mine.shape == (micro.N, micro.VOCAB) and np.allclose(mine, reference, atol=1e-2)
        assert np.array_equal(mine.argmax(-1), trajectory.argmax[row])
    backend.close()


def test_taps_of_a_graph_are_the_models_own(eager: TorchBackend) -> None:
    """Every tap of an encoded chunk and of a step, but for those that a chunk does not have."""
    from dgemma.verify.backend import tap_order
    from dgemma.verify.metrics import relative_error

    trajectory = eager.trajectory(micro.prompt(20), SEED, 16)
    tapped = onnx().tapped()
    names = tap_order(micro.CONFIG)
    for backend in (eager, tapped):
        backend.reset()
    a, b = (backend.extend(micro.prompt(20), taps=True) for backend in (eager, tapped))
    assert [n for n in names if n in a and n in b] == [n for n in names if n not in ("conditioned", "logits")]
    assert all(relative_error(a[n], b[n]) < 1e-5 for n in names if n in a)
    words = np.zeros((2, micro.N), np.uint32)
    soft = np.ones((micro.N, 32), np.float32)
    x, y = (r.step(trajectory.canvas_in[0], soft, words, np.float32(0.7), taps=True) for r in (eager, tapped))
    assert [n for n in names if n in x.taps and n in y.taps] == [n for n in names if n != "logits"] and y.logits is not None
    assert all(relative_error(x.taps[n], y.taps[n]) < 1e-5 for n in names if n != "logits")
    assert relative_error(x.taps["layers.0.q"], y.taps["layers.1.k"][:, :1].repeat(2, 1)[..., :16]) > 0.1
    tapped.close()


def test_the_bundle_is_not_touched() -> None:
    path = micro_bundle.bundle("onnx")
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    open_forced(Bundle.open(path), "onnx", 1, taps=True)[0].prepare("denoise")
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_a_bundle_without_logits_is_still_compared(eager: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgemma.verify.logits._UNIT", "elsewhere")
    backend = onnx()
    figures = forced_figures(backend, eager)
    assert backend.without_logits is not None and "has neither logits nor tiles of them" in backend.without_logits
    assert figures["kl"] is None and figures["same_argmax"] == 1.0
