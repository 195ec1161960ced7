"""What an NPU's contexts take and how graphs are grouped, and an export that goes on with those that it has."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
import static_bundle
from onnx import ModelProto

from dgemma.benchmarks.studies import npu_compile
from dgemma.core.config import PRESETS
from dgemma.core.errors import ExportError, UsageError
from dgemma.core.shapes import parameter_count
from dgemma.export import estimate, room
from dgemma.export.estimate import Estimate
from dgemma.export.graphs import Shapes
from dgemma.export.onnx.weights import WeightFile
from dgemma.export.qnn import checks, compilers, contexts, lower
from dgemma.export.qnn.compilers import Compilers
from dgemma.export.qnn.contexts import Contexts
from dgemma.export.qnn.graph import StaticNet
from dgemma.export.qnn.kept import Kept
from dgemma.export.request import check
from dgemma.export.spans import MOST_BYTES
from dgemma.export.static import Sizes
from dgemma.quantize.integers import quantize
from dgemma.quantize.ranges import ranges
from dgemma.quantize.recipes import find

SHAPES = Shapes(canvas=256, chunk=256, context=4096)
FAKE = """import json, sys, pathlib
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
for source, wrapper in job["graphs"]:
    if "bad" in source:
        sys.exit("out of room")
    path = pathlib.Path(wrapper)
    path.write_text(source)
    path.with_name("head.bin" if path.name.startswith("head") else "layers.bin").write_text("context")
    print(f"done 1.5 {1 << 20} {source}", flush=True)
if job.get("waits"):
    sys.stdin.read()
"""


def of_2b(recipe: str = "w4a16-mixed") -> Contexts:
    return Contexts(config=PRESETS["2b"], recipe=find(recipe), shapes=SHAPES)


def test_large_models_have_fewer_lengths() -> None:
    assert Sizes.of(SHAPES, PRESETS["2b"]).slots == (256, 1024, 4096)
    assert Sizes.of(replace(SHAPES, context=512), PRESETS["2b"]).slots == (256, 512)
    assert Sizes.of(SHAPES, micro.CONFIG).slots == (128, 256, 512, 1024, 2048, 4096)


@pytest.mark.parametrize("recipe", ["fp32", "w8a16", "w4a16-mixed"])
def test_contexts_of_2b_hold_every_weight_once_and_compile_in_little_memory(recipe: str) -> None:
    found = of_2b(recipe)
    pieces = [piece for context in found.all for piece in context.pieces]
    for rows in (1, 64, 256):
        for slots in (256, 1024, 4096):
            layers = [(p.first, p.last) for p in pieces if p.part == "layers" and (p.rows, p.slots) == (rows, slots)]
            assert [i for first, last in layers for i in range(first, last)] == list(range(26))
        assert sum(p.last - p.first for p in pieces if p.part == "head" and p.rows == rows) == 262_144
    counted = {(p.part, p.first): p.weights.count for p in pieces}
    assert sum(counted.values()) == parameter_count(PRESETS["2b"]) - 2304  # the norm behind the layers
    assert max(context.stored for context in found.all) <= MOST_BYTES
    assert recipe == "fp32" or found.memory <= contexts.MOST_MEMORY


def test_a_small_model_has_two_contexts() -> None:
    found = Contexts(config=micro.CONFIG, recipe=find("fp32"), shapes=Shapes(canvas=16, chunk=16, context=64))
    assert [context.pieces[0].part for context in found.all] == ["condition", "head"]


def test_compilers_run_at_once_as_far_as_memory_and_cores_go(monkeypatch: pytest.MonkeyPatch) -> None:
    found = of_2b()
    monkeypatch.setattr(contexts, "usable_cores", lambda: 4)
    fits = {None: 1, 0: 1, int(2.3 * found.memory): 2, 1 << 50: 4}
    assert {free: found.at_once(free) for free in fits} == fits


def test_a_plan_counts_what_the_npus_compiler_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "MODULE", "numpy")
    monkeypatch.setattr(contexts, "usable_cores", lambda: 2)
    monkeypatch.setattr(estimate, "available", lambda: 1 << 50)

    def plan(target: str, recipe: str = "w8a16", preset: str = "2b") -> Estimate:
        made = check(preset, engines=("onnx",), recipe=recipe, random_weights=0, target=target)
        return Estimate(request=made, engines=("onnx",))

    one, two = plan("qnn:SM8650"), plan("qnn:SM8650,SM8750")
    seconds = [{stage.name: stage.seconds for stage in made.plan} for made in (one, two)]
    compiling = of_2b("w8a16").seconds
    assert [s["qnn: compile"] for s in seconds] == [pytest.approx(compiling / 2), pytest.approx(compiling)]
    assert two.disk - one.disk == of_2b("w8a16").stored
    assert "qnn" not in plan("cpu", "w8").stages and plan("cpu", "w8").contexts is None
    assert f"{of_2b('w8a16').graphs} graphs in {len(of_2b('w8a16').all)} contexts" in "\n".join(one.lines("2b"))

    large = plan("qnn:SM8650", "fp32", "9b")  # one float layer in twelve graphs
    assert large.stages["qnn"] > large.stages["onnx"] - 4 * large.parameters
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 50, 0, 1 << 50))  # type: ignore[attr-defined]
    monkeypatch.setattr(room, "available", lambda: one.stages["qnn"] - 1)
    with pytest.raises(ExportError, match=r"takes about .* GB of memory \(.*qnn "):
        room.check(one, tmp_path / "x.dgemma")


def test_a_constant_of_several_nets_is_made_once(tmp_path: Path) -> None:
    made, known = list[int](), {}

    def make() -> np.ndarray[Any, Any]:
        made.append(1)
        return np.arange(4096, dtype=np.float32)

    def net(name: str, first: int) -> ModelProto:
        found = StaticNet(name, weights, None, known)
        found.output(found.op("Identity", found.constant(make, "w", first=first)), "y", (4096,))
        return found.model()

    with (tmp_path / "weights.bin").open("wb") as file:
        weights = WeightFile(file)
        graphs = [net("a", 0), net("b", 0), net("c", 1)]
    assert len(made) == 2 and len(weights.places) == 1
    assert graphs[0].graph.initializer[0] == graphs[1].graph.initializer[0]


def test_ranges_are_the_same_where_weights_are_float_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = micro.model().eval()
    quantized = quantize(model, find("w8a16"))
    wanted = ranges(model, micro.POLICY, [micro.prompt(7)], quantized)
    monkeypatch.setattr("dgemma.quantize.ranges.KEPT", 0)
    assert ranges(model, micro.POLICY, [micro.prompt(7)], quantized) == wanted


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "fake.py"
    program.write_text(FAKE)
    monkeypatch.setattr(compilers, "PROGRAM", program)
    (tmp_path / "stage" / "out").mkdir(parents=True)
    return tmp_path / "stage"


def test_compilers_report_what_they_took(stage: Path) -> None:
    said, ended = list[tuple[int, int]](), list[int]()
    made = Compilers(stage, lambda *graph: said.append(graph), ended.append)
    made.run({n: {"graphs": [[f"{n}.onnx", f"out/{n}{i}.onnx"] for i in range(2)]} for n in (3, 5)}, at_once=2)
    assert sorted(said) == [(3, 1), (3, 2), (5, 1), (5, 2)] and sorted(ended) == [3, 5]
    assert made.took[3] == [{"processor_s": 1.5, "peak_bytes": 1 << 20}] * 2
    assert [path.name for path in stage.iterdir()] == ["out"]


def test_the_first_compiler_that_fails_ends_the_others(stage: Path) -> None:
    begun = threading.Event()
    jobs = {
        0: {"graphs": [["waits.onnx", "out/0.onnx"]], "waits": True},
        1: {"graphs": [["bad.onnx", "out/1.onnx"]]},
        2: {"graphs": [["never.onnx", "out/2.onnx"]]},
    }
    with pytest.raises(ExportError, match=r"refused bad\.onnx: out of room"):
        Compilers(stage, lambda *_: begun.set(), lambda _: None).run(jobs, at_once=2)
    assert not list(stage.glob("job-*")) + list(stage.glob("log-*"))


def job_of(name: str) -> dict[str, Any]:
    return {"options": {"a": "1"}, "graphs": [[f"qnn/{name}.onnx", f"qnn/C/{name}.onnx"]]}


def stage_of(folder: Path, source: str) -> Path:
    (folder / "qnn" / "C").mkdir(parents=True)
    (folder / "qnn" / "x.onnx").write_text(source)
    return folder


def test_a_context_is_taken_again_for_the_same_graphs_only(tmp_path: Path) -> None:
    shelf, first = Kept(tmp_path / "kept", ["2.7.0"]), stage_of(tmp_path / "first", "graph")
    assert not shelf.restore(job_of("x"), first)
    (first / "qnn" / "C" / "x.onnx").write_text("wrapper")
    (first / "qnn" / "C" / "x.bin").write_text("context")
    shelf.keep(job_of("x"), first, "x.bin")
    shutil.rmtree(first)
    same = stage_of(tmp_path / "same", "graph")
    assert shelf.restore(job_of("x"), same)
    assert {p.name: p.read_text() for p in (same / "qnn" / "C").iterdir()} == {"x.onnx": "wrapper", "x.bin": "context"}
    assert not shelf.restore(job_of("x"), stage_of(tmp_path / "other", "another graph"))
    assert not Kept(tmp_path / "kept", ["2.8.0"]).restore(job_of("x"), stage_of(tmp_path / "newer", "graph"))
    assert not shelf.restore({**job_of("x"), "options": {"a": "2"}}, stage_of(tmp_path / "options", "graph"))


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch, stage: Path) -> Callable[[Path], Path]:
    monkeypatch.setattr(lower, "WORTH", 0.0)
    monkeypatch.setattr(contexts, "usable_cores", lambda: 1)  # the first context is done before the second fails
    monkeypatch.setattr(lower, "_finish", lambda wrapper: "head.bin" if wrapper.name.startswith("head") else "layers.bin")
    return lambda out: static_bundle.export(static_bundle.micro_bundle.checkpoint(), out, "fp32", compiled=True)


def test_an_export_that_was_ended_goes_on_with_its_contexts(
    exporting: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, kept = tmp_path / "x.dgemma", tmp_path / "x.dgemma.contexts"
    program = compilers.PROGRAM
    program.write_text(FAKE.replace('"bad"', '"head"'))
    with pytest.raises(ExportError, match="refused head-"):
        exporting(out)
    assert not out.exists() and len(list(kept.iterdir())) == 1
    program.write_text(FAKE.replace('"bad"', '"layers"'))  # which are not compiled again
    exporting(out)
    assert out.is_dir() and not kept.exists()


def test_the_study_goes_on_from_its_own_file_and_extrapolates(tmp_path: Path) -> None:
    out, whole = tmp_path / "r.json", of_2b()
    assert npu_compile.earlier(out, {"chip": "SM8650"}) == []
    half = [
        {
            "first": context.pieces[0].name, "graphs": [{}] * len(context.pieces), "seconds": {"compile": 9.0},
            "processor_s": 2 * context.seconds, "peak_bytes": 7, "bytes": 5, "planned": {"processor_s": context.seconds},
        }
        for context in whole.all[:3]
    ]  # fmt: skip
    found = npu_compile.totals(half, whole)
    assert found["whole_processor_s"] == pytest.approx(2 * whole.seconds) and found["contexts"] == 3 and found["bytes"] == 15
    out.write_text(json.dumps({"chip": "SM8650", "contexts": half}))
    assert npu_compile.earlier(out, {"chip": "SM8650"}) == half
    with pytest.raises(UsageError, match="of another model, recipe, context or compiler; remove it"):
        npu_compile.earlier(out, {"chip": "SM8750"})


def test_the_study_writes_the_graphs_that_an_export_writes(tmp_path: Path) -> None:
    found = Contexts(config=micro.CONFIG, recipe=find("w8a16"), shapes=Shapes(canvas=16, chunk=16, context=64))
    names = [Path(g.source).stem for context in found.all for g in npu_compile.write(context, found, tmp_path)]
    assert names == [piece.name for context in found.all for piece in context.pieces]
    assert {path.stem for path in tmp_path.glob("*.onnx")} == set(names)
