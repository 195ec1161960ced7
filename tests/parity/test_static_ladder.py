"""An NPU's graphs as rungs of the ladder: clean ones pass, a wrong range, a flipped scale and a clipped softmax are found.

Most of it runs the graphs on the processor, which needs no package of Qualcomm's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import micro_bundle
import numpy as np
import onnx
import pytest
import static_bundle
from onnx import helper, numpy_helper

from dgemma.benchmarks.bench.run import runs_on
from dgemma.cli import dispatch
from dgemma.core.errors import EngineError
from dgemma.export.qnn import contexts
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import qnn_sessions
from dgemma.verify import against_float, golden, ladder, tolerance
from dgemma.verify.against_float import ComparisonRequest
from dgemma.verify.backend import Backend
from dgemma.verify.backends import backends_of
from dgemma.verify.engine_backend import EngineBackend
from dgemma.verify.static_graphs import EMULATED, SOURCES, StaticBackend, with_taps

Edit = Callable[[onnx.GraphProto], None]
# Large random weights: distributions are steep, and 8-bit activations on the rung above move them by 0.16.
ROUNDED = replace(tolerance.SIXTEEN_BITS, tensors=0.3, argmax=0.1)


def quietly(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


def climb(bundle: Bundle, backends: Sequence[Backend], limits: Sequence[tolerance.Tolerance]) -> dict[str, Any]:
    asked = [
        ladder.Asked(ids=t.prompt_ids.tolist(), seed=seed, most=golden.room_for(bundle.manifest, t.prompt_ids), recorded=t)
        for seed, t in golden.read(bundle)[:2]
    ]
    found = ladder.compare_backends(backends, limits, asked, "nobody", quietly)
    for backend in backends:
        backend.close()
    return found


def on_processor(path: Path) -> dict[str, Any]:
    """What the ladder says of a bundle's graphs on the processor."""
    bundle = Bundle.open(path)
    rounded = bundle.manifest.quantization["recipe"] != "fp32"
    limits = [tolerance.SAME_FLOAT, ROUNDED if rounded else tolerance.SAME_FLOAT]
    found: dict[str, Any] = climb(bundle, [EngineBackend(bundle, "onnx", 1), StaticBackend(bundle, 1, sources=True)], limits)[
        SOURCES
    ]
    return found


@pytest.mark.parametrize("recipe", ["fp32", "w8a16"])
def test_clean_graphs_pass(recipe: str) -> None:
    found = on_processor(static_bundle.bundle(recipe))
    assert found["passed"] and found["fault"] is None and found["against"] == "onnx"
    errors = {c["name"]: c["value"] for c in found["checks"]}
    assert 0 < errors["logits, error of range"] < 0.1, "logits are not compared"


def test_spans_of_one_kind_of_layer_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "split", lambda config, *_: [(i, i + 1) for i in range(config.num_layers)])
    split = static_bundle.export(micro_bundle.checkpoint(), tmp_path / "split.dgemma", "fp32")
    found = []
    for path in (split, static_bundle.bundle("fp32")):
        bundle = Bundle.open(path)
        backend = StaticBackend(bundle, 1, sources=True)
        (seed, recorded), most = golden.read(bundle)[0], 2 * bundle.manifest.canvas_length
        found.append(backend.trajectory(recorded.prompt_ids.tolist(), seed, most))
        backend.close()
    assert len({(g.first, g.last) for g in Bundle.open(split).manifest.targets["qnn:SM8650"].graphs if g.part == "layers"}) > 1
    assert np.array_equal(found[0].canvas_out, found[1].canvas_out)
    assert np.abs(found[0].entropy - found[1].entropy).max() < 1e-5


def initializer(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(t for t in graph.initializer if t.name == name)


def scaled(graph: onnx.GraphProto, name: str, factor: float) -> None:
    tensor = initializer(graph, name)
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype(np.float32), name))


def wrong_range(graph: onnx.GraphProto) -> None:
    """Of the inputs of a down projection: a fiftieth of what it was."""
    makes = {out: node for node in graph.node for out in node.output}
    reads = {name: node for node in graph.node for name in node.input}
    product = reads[reads["layers.0.mlp.down_proj.weight.integers"].output[0]]
    scaled(graph, makes[product.input[0]].input[1], 0.02)


def flipped_scale(graph: onnx.GraphProto) -> None:
    scaled(graph, "layers.0.self_attn.q_proj.weight.scale", -1.0)


def clipped_softmax(graph: onnx.GraphProto) -> None:
    """Of the first layer: no weight above a twentieth."""
    at, node = next((i, n) for i, n in enumerate(graph.node) if n.op_type == "Softmax")
    graph.initializer.append(numpy_helper.from_array(np.array(0.05, np.float32), "most"))
    clipped = helper.make_node("Min", [f"{node.output[0]}.raw", "most"], [node.output[0]], name="clip")
    node.output[0] = f"{node.output[0]}.raw"
    graph.node.insert(at + 1, clipped)


@pytest.mark.parametrize(
    ("edit", "tensor"),
    [(wrong_range, "layers.0.mlp_out"), (flipped_scale, "layers.0.q"), (clipped_softmax, "layers.0.attention_out")],
)
def test_a_fault_is_found_and_named(edit: Edit, tensor: str, tmp_path: Path) -> None:
    path = static_bundle.edited(static_bundle.bundle("w8a16"), tmp_path / "faulty.dgemma", edit)
    found = on_processor(path)
    assert not found["passed"]
    assert found["fault"]["tensor"] == tensor and found["fault"]["error"] > ROUNDED.tensors


def test_without_the_package_one_line_says_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn_sessions, "installed", lambda: None)
    monkeypatch.setattr(qnn_sessions, "is_emulated", lambda: True)
    backends, limits, missing = backends_of(Bundle.open(static_bundle.bundle("w8a16")), None, ["onnx"], 1)
    assert [b.name for b in backends] == ["onnx", SOURCES] and limits[1] == tolerance.SIXTEEN_BITS
    assert missing[EMULATED].startswith("onnxruntime-qnn is not installed; pip install")
    monkeypatch.setattr(qnn_sessions, "is_emulated", lambda: False)
    assert (
        "a real NPU is not checked" in backends_of(Bundle.open(static_bundle.bundle("w8a16")), None, ["onnx"], 1)[2][EMULATED]
    )


def test_a_graph_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "layers.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"layers\.onnx: cannot be read"):
        with_taps(path, [])


@pytest.mark.slow
def test_the_emulator_is_a_rung(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    bundle = Bundle.open(static_bundle.bundle("w8a16"))
    limits = [tolerance.SIXTEEN_BITS, tolerance.EMULATED]
    with pytest.warns(UserWarning, match="runs in the emulator"):
        found = climb(bundle, [StaticBackend(bundle, 1, sources=True), StaticBackend(bundle, 1)], limits)[EMULATED]
    assert found["passed"] and found["against"] == SOURCES
    faulty = Bundle.open(static_bundle.edited(bundle.path, tmp_path / "faulty.dgemma", wrong_range))
    with pytest.warns(UserWarning, match="runs in the emulator"):
        found = climb(bundle, [StaticBackend(bundle, 1, sources=True), StaticBackend(faulty, 1)], limits)[EMULATED]
    assert not found["passed"] and found["fault"]["tensor"] == "layers.0.mlp_out"


def test_inspect_and_bench_say_what_runs_where(capsys: pytest.CaptureFixture[str]) -> None:
    path = static_bundle.bundle("w8a16")
    assert dispatch(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "qnn:SM8650 (Snapdragon 8 Gen 3), a16: products of integers with 16-bit activations" in shown
    assert "layers, products of the head: npu" in shown
    manifest = Bundle.open(path).manifest
    assert runs_on(manifest, "onnx").startswith("Runs on the processor (onnx); not measured: qnn:SM8650, because")
    assert runs_on(manifest, "onnx/qnn (SM8650)") == "Runs on the NPU (onnx/qnn (SM8650))"


def test_bench_reports_no_emulator(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn_sessions, "is_emulated", lambda: True)
    assert dispatch(["bench", str(static_bundle.bundle("w8a16")), "--target", "qnn"]) == 2
    assert "an emulator stands in for the NPU, and its speed says nothing about a chip's" in capsys.readouterr().err
    monkeypatch.setattr(qnn_sessions, "is_emulated", lambda: False)
    monkeypatch.setattr(qnn_sessions, "installed", lambda: None)
    assert dispatch(["bench", str(static_bundle.bundle("w8a16")), "--target", "qnn"]) != 0
    assert "target 'qnn' needs package onnxruntime-qnn" in capsys.readouterr().err, "the NPU was not asked for"


def test_the_gate_runs_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the processor here; without text there are no right answers, so a wrong range shows in the divergence."""
    monkeypatch.setattr(against_float, "StaticBackend", partial(StaticBackend, sources=True))
    monkeypatch.setattr(against_float, "open_engine", lambda *_: SimpleNamespace(close=lambda: None))
    clean = static_bundle.bundle("w8a16")
    divergence = []
    for path in (clean, static_bundle.edited(clean, tmp_path / "bad.dgemma", wrong_range)):
        asked = ComparisonRequest(bundle=path, checkpoint=str(micro_bundle.checkpoint()), target="qnn", count=4, threads=1)
        _, found = against_float.compare(asked, quietly)
        values = found[SOURCES]
        assert list(found) == [SOURCES] and values["recipe"] == "w8a16" and "onnxruntime-qnn" in values["tools"]
        assert values["free_running"]["prompts"] == 4 and values["limits"]["step_inflation"] == 1.02
        divergence.append(values["teacher_forced"]["kl"]["mean"])
    assert 0 < divergence[0] < 0.05 < 1 < divergence[1]


def test_the_gate_of_an_npu_is_refused_before_the_ladder(capsys: pytest.CaptureFixture[str]) -> None:
    plain, checkpoint = str(micro_bundle.bundle("onnx")), str(micro_bundle.checkpoint())
    for options, message in (
        (["--checkpoint", checkpoint, "--target", "qnn"], "was exported without contexts for an NPU"),
        (["--checkpoint", checkpoint, "--target", "tpu"], "--target 'tpu' is unknown; choose cpu or qnn"),
        (["--target", "qnn"], "--target is for the comparison with a float checkpoint"),
        (["--checkpoint", checkpoint, "--target", "qnn", "--golden-only"], "--target is for the gate"),
    ):
        assert dispatch(["verify", plain, *options]) == 2
        assert message in capsys.readouterr().err
