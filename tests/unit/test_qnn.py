"""`--target qnn`: what is refused before work, what a bundle then holds, and that the emulated NPU follows the processor."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import micro_bundle
import numpy as np
import onnx
import pytest
import shared
from onnx import helper

from dgemma.cli import dispatch
from dgemma.core import accelerators
from dgemma.core.accelerators import Target
from dgemma.core.errors import BundleError, DgemmaWarning, EngineError, ExportError, UsageError
from dgemma.core.manifest import MANIFEST, digest
from dgemma.export import pipeline, request, spans, static
from dgemma.export.pipeline import export_bundle
from dgemma.export.qnn import checks, lower
from dgemma.export.qnn.compilers import Compilers
from dgemma.export.qnn.graph import IR_VERSION
from dgemma.export.quiet import quiet
from dgemma.quantize.recipes import find
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine, qnn, qnn_sessions
from dgemma.runtime.session import Session

PROMPT = micro.prompt(11)


def test_targets_are_read() -> None:
    assert Target.parse("cpu") == Target(backend="cpu")
    assert Target.parse("qnn:sm8650, SM8750").chips == ("SM8650", "SM8750")
    assert accelerators.CHIPS["SM8650"].htp == 75


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("npu", "'npu' is unknown"),
        ("metal", "'metal' is unknown"),
        ("qnn", "name a chip"),
        ("qnn:SM9999", "'SM9999' is unknown"),
        ("cpu:x", "is unknown"),
    ],
)
def test_an_unknown_target_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Target.parse(text)


def test_the_command_line_refuses_an_unknown_chip_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dispatch(["export", "2b", "--out", str(tmp_path / "x.dgemma"), "--target", "qnn:SM1"]) == 2
    assert "chip 'SM1' is unknown; choose SM8550" in capsys.readouterr().err


def check(folder: Path, **options: Any) -> None:
    request.check(folder, **{"engines": ("onnx",), "recipe": "fp32", "target": "qnn:SM8650", **options})


def test_what_does_not_run_there_is_refused_before_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = micro_bundle.checkpoint()
    with pytest.raises(UsageError, match=r"recipe 'w8' does not run on the NPU.* use --recipe fp32, w8a16, w4a16-mixed"):
        check(folder, recipe="w8")
    with pytest.raises(UsageError, match=r"w8a16: 16-bit .* add --target qnn:CHIP, or use --recipe w8"):
        check(folder, recipe="w8a16", target="cpu")
    table = replace(find("w4-all"), name="table", activations=16, group=16)
    (tmp_path / "table.json").write_text(json.dumps(table.to_dict()))
    with pytest.raises(UsageError, match="recipe 'table' has 4-bit embeddings"):
        check(folder, recipe=str(tmp_path / "table.json"))
    with pytest.raises(UsageError, match="beside the ONNX graphs"):
        check(folder, engines=("executorch",))
    with pytest.raises(UsageError, match="mixture of experts does not run"):
        check(micro.save(tmp_path / "moe", micro.MOE_CONFIG))
    monkeypatch.setattr(checks, "MODULE", "no_such_module")
    with pytest.raises(UsageError, match=r"needs package onnxruntime-qnn.*\[qnn\]"):
        check(folder)


def test_a_layer_that_no_context_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime_qnn")
    monkeypatch.setattr(spans, "MOST_BYTES", 1000)
    with pytest.raises(UsageError, match=r"the table of ids takes .* use a recipe of fewer bits"):
        check(micro_bundle.checkpoint())
    monkeypatch.setattr(spans, "MOST_BYTES", 20_000)
    with pytest.raises(UsageError, match=r"layer 0 takes .* use a recipe of fewer bits"):
        check(micro_bundle.checkpoint())


@pytest.fixture(scope="module")
def bundle() -> Path:
    """The micro model for one chip, its vocabulary of 300 in two tiles."""
    pytest.importorskip("onnxruntime_qnn")

    if given := os.environ.get("DGEMMA_MICRO_BUNDLES"):
        return Path(given).resolve() / "onnx-qnn.dgemma"

    def export(out: Path) -> Path:
        before, static.HEAD_TILE = static.HEAD_TILE, 256
        try:
            with quiet():
                return export_bundle(micro_bundle.checkpoint(), out, engines=("onnx",), recipe="fp32", target="qnn:SM8650")
        finally:
            static.HEAD_TILE = before

    return shared.bundle("micro-qnn", export)


def test_a_bundle_describes_what_it_holds_for_the_chip(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = Bundle.open(bundle).manifest.targets["qnn:SM8650"]
    assert (spec.chip, spec.precision, spec.options["soc_model"]) == ("SM8650", "fp16", "57")
    assert {g.part for g in spec.graphs} == {"condition", "layers", "head"}
    assert {(g.first, g.last) for g in spec.graphs if g.part == "head"} == {(0, 256), (256, 300)}
    binaries = {g.binary for g in spec.graphs if g.part != "head"}
    assert len(binaries) == 1, "graphs of one span do not share a context"
    assert {onnx.load(bundle / g.file, load_external_data=False).ir_version for g in spec.graphs} == {IR_VERSION}
    assert spec.versions["qairt"] == qnn_sessions.installed()[1]  # type: ignore[index]
    assert dispatch(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "qnn:SM8650 (Snapdragon 8 Gen 3), fp16" in shown and "layers, products of the head: npu" in shown


def test_the_graphs_for_processors_are_those_of_a_bundle_without_it(bundle: Path) -> None:
    plain = micro_bundle.bundle("onnx")
    for name in ("shared.onnx", "generate.onnx", "weights.bin"):
        assert (bundle / "onnx" / name).read_bytes() == (plain / "onnx" / name).read_bytes()


def test_the_emulated_npu_follows_the_processor(bundle: Path) -> None:
    with Session.load(bundle, target="cpu") as session:
        wanted = session.generate(PROMPT, max_new_tokens=2 * micro.N, seed=3, trace=True)
        greedy = session.decode_greedy(PROMPT, max_new_tokens=4)
        assert session.label == "onnx"
    with pytest.warns(DgemmaWarning, match="runs in the emulator"):
        session = Session.load(bundle, target="qnn")
    with session:
        got = session.generate(PROMPT, max_new_tokens=2 * micro.N, seed=3, trace=True)
        assert session.decode_greedy(PROMPT, max_new_tokens=4).tokens == greedy.tokens
        session._engine._constants["denoise_scalars"] *= 1.2  # type: ignore[attr-defined]
        wrong = session.generate(PROMPT, max_new_tokens=micro.N, seed=3, trace=True)
        assert wrong.trajectory is not None
        session._engine._constants["denoise_scalars"] /= 1.2  # type: ignore[attr-defined]
        active = session.generate(PROMPT, max_new_tokens=micro.N, seed=3, start_width=4)
    assert got.engine == "onnx/qnn (emulated SM8650)"
    assert got.trajectory is not None and wanted.trajectory is not None
    first = wanted.trajectory
    error = np.abs(got.trajectory.entropy[0] - first.entropy[0]).mean()
    assert error < 0.03 and np.mean(got.trajectory.argmax[0] == first.argmax[0]) >= 0.9
    assert np.abs(wrong.trajectory.entropy[0] - first.entropy[0]).mean() > 2 * error, "wrong layer scalars are not seen"
    assert len(active.tokens) > 0


def test_auto_never_takes_the_emulator(bundle: Path) -> None:
    engine = open_engine(Bundle.open(bundle), None, 1)
    assert not isinstance(engine, qnn.QnnEngine)


def test_what_cannot_run_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Bundle.open(bundle)
    with pytest.raises(EngineError, match="exported without contexts for an NPU; export it again with --target qnn:CHIP"):
        open_engine(Bundle.open(micro_bundle.bundle("onnx")), None, 1, "qnn")
    with pytest.raises(EngineError, match=r"has no contexts for 'qnn:SM8550' \(it has: qnn:SM8650\)"):
        open_engine(opened, None, 1, "qnn:SM8550")
    with pytest.raises(UsageError, match="runs on engine 'onnx', not 'executorch'"):
        open_engine(opened, "executorch", 1, "qnn")
    with pytest.raises(UsageError, match="choose auto, cpu or qnn"):
        open_engine(opened, None, 1, "tpu")
    with (
        pytest.warns(DgemmaWarning),
        Session.load(bundle, target="qnn") as session,
        pytest.raises(EngineError, match="--loop host"),
    ):
        session.generate(PROMPT, loop="graph")
    monkeypatch.setattr(qnn_sessions, "installed", lambda: None)
    with pytest.raises(EngineError, match=r"needs package onnxruntime-qnn.*or use --target cpu"):
        open_engine(opened, None, 1, "qnn")
    monkeypatch.setattr(qnn_sessions, "installed", lambda: ("9.0", "3.1.0"))
    with pytest.raises(EngineError, match=r"compiled with QAIRT 2.* and onnxruntime-qnn 9.0 has 3.1.0; install"):
        open_engine(opened, None, 1, "qnn")


def test_a_graph_that_the_npu_refuses_is_an_error(bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.dgemma"
    shutil.copytree(bundle, damaged)
    opened = Bundle.open(damaged)
    graph = next(g for g in opened.manifest.targets["qnn:SM8650"].graphs if g.part == "layers" and g.rows == micro.N)
    (damaged / graph.source).write_bytes(b"no graph")
    with pytest.warns(DgemmaWarning):
        engine = open_engine(opened, None, 1, "qnn")
    assert isinstance(engine, qnn.QnnEngine)
    with pytest.raises(EngineError, match="the NPU refused this graph"):
        engine._native(graph, {})


def test_a_context_that_is_missing_or_unlisted_is_refused(bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.dgemma"
    shutil.copytree(bundle, damaged)
    values = json.loads((damaged / MANIFEST).read_text())
    name = values["targets"]["qnn:SM8650"]["graphs"][0]["binary"]
    (damaged / name).unlink()
    with pytest.raises(BundleError, match="is missing"):
        Bundle.open(damaged)
    del values["files"][name]
    (damaged / MANIFEST).write_text(json.dumps({**values, "digest": digest(values)}))
    with pytest.raises(BundleError, match=r"'qnn:SM8650' file .* is not listed"):
        Bundle.open(damaged)


@pytest.mark.parametrize("ends", ["compiler", "export"])
def test_a_compiler_that_fails_leaves_no_bundle(ends: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    plain = micro_bundle.bundle("onnx")

    def nothing(*_: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # the graphs for processors are not what is tried
        folder = next(tmp_path.iterdir()) / "onnx"
        folder.mkdir()
        shutil.copyfile(plain / "onnx" / "shared.onnx", folder / "shared.onnx")
        return {}, {}

    monkeypatch.setattr(pipeline, "lower", nothing)
    if ends == "compiler":
        monkeypatch.setattr(lower, "_options", lambda chip: {"htp_arch": "nonsense"})
    else:
        monkeypatch.setattr(lower, "_finish", lambda wrapper: "missing")
    request_ = request.check(micro_bundle.checkpoint(), engines=("onnx",), recipe="fp32", target="qnn:SM8650")
    with quiet(), pytest.raises(ExportError, match=r"refused condition|wrote no context"):
        pipeline.write_bundle(request_, tmp_path / "failed.dgemma", engines=("onnx",))
    assert list(tmp_path.iterdir()) == []


def test_contexts_have_the_same_bytes_wherever_they_are_compiled(bundle: Path, tmp_path: Path) -> None:
    found, said = [], list[tuple[int, int]]()
    for name in ("here", "there"):
        folder = tmp_path / name
        shutil.copytree(bundle / "qnn", folder / "qnn")
        (folder / "out").mkdir()
        pairs = [[f"qnn/head-0-256-{rows}.onnx", f"out/{rows}.onnx"] for rows in (1, 16)]
        job = {"options": lower._options("SM8650"), "graphs": pairs}
        Compilers(folder, lambda *graph: said.append(graph), lambda _: None).run({0: job}, at_once=1)
        found.append({path.name: path.read_bytes() for path in (folder / "out").iterdir()})
    assert len(found[0]) == 3 and found[0] == found[1]
    assert said == [(0, 1), (0, 2)] * 2


def test_wrappers_are_written_for_older_versions_of_onnxruntime(tmp_path: Path) -> None:
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="context.bin")
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "wrapper", values[:1], values[1:])
    opsets = [helper.make_opsetid(domain, 1) for domain in ("com.microsoft", "com.ms.internal.nhwc")]
    path = tmp_path / "wrapper.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=14).SerializeToString())
    assert lower._finish(path) == "context.bin"
    found = onnx.load(path)
    assert found.ir_version == IR_VERSION and [o.domain for o in found.opset_import] == ["com.microsoft"]
    assert found.graph == graph


def test_contexts_are_named_by_their_chip() -> None:
    assert accelerators.name_of("SM8750") == "qnn:SM8750"
    assert replace(Target.parse("qnn:SM8750"), chips=()).backend == "qnn"
