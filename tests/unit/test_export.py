"""What is in a bundle: manifest, graphs as the engine sees them, weights once, nothing of this machine, same bytes."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import micro
import micro_bundle
import numpy as np
import onnx
import pytest

from dgemma.core.manifest import FORMAT_VERSION, read_manifest, write_manifest
from dgemma.core.trajectory import Trajectory
from dgemma.export.onnx import weights
from dgemma.export.quiet import quiet
from dgemma.runtime.engines.sessions import open_session
from dgemma.runtime.session import Session
from dgemma.verify import golden
from dgemma.verify.golden import FILE, prompts

ENGINES = ("onnx", pytest.param("executorch", marks=pytest.mark.slow))
GRAPHS = ("encode", "denoise", "denoise_guided", "denoise_active", "generate", "decode", "check")
FLOAT_BYTES = 4 * sum(p.numel() for p in micro.model().parameters())
OVERHEAD = 160_000  # bytes: the graphs without weights, and the gaps between aligned tensors
DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32", "tensor(double)": "float64", "tensor(bool)": "bool"}


@pytest.mark.parametrize("engine", ENGINES)
def test_manifest(engine: str) -> None:
    manifest, _ = read_manifest(micro_bundle.bundle(engine))
    assert manifest.format_version == FORMAT_VERSION and set(manifest.engines) >= {engine}
    assert manifest.model == micro.CONFIG and manifest.sampler == micro.POLICY
    assert (manifest.canvas_length, manifest.steps, manifest.context, manifest.chunk) == (micro.N, micro.T, micro.CONTEXT, 64)
    assert set(manifest.graphs[engine]) == set(GRAPHS)
    assert manifest.dims == {"S": (1, micro.CONTEXT), "L": (1, micro.CONTEXT), "C": (1, 64), "R": (1, 64), "A": (1, micro.N)}
    assert manifest.quantization["recipe"] == "fp32" and manifest.quantization["bits_per_weight"] == 32
    assert {"config.json", "model.safetensors"} <= set(manifest.provenance["files"])
    assert {"torch"} < set(manifest.tools)


def test_graphs_are_what_onnxruntime_sees() -> None:
    bundle = micro_bundle.bundle("onnx")
    manifest, _ = read_manifest(bundle)
    for graph in manifest.graphs["onnx"].values():
        session = open_session(bundle / graph.file)
        needed, optional = session.get_inputs(), session.get_overridable_initializers()
        assert {t.name for t in needed} <= {s.name for s in graph.inputs}  # what else there is has a default
        for specs, held in ((graph.inputs, [*needed, *optional]), (graph.outputs, session.get_outputs())):
            by_name = {t.name: t for t in held}
            for spec in specs:
                found = by_name[spec.name]
                assert DTYPES[found.type] == spec.dtype and len(found.shape) == len(spec.shape)
                assert all(isinstance(a, str) or a == b for a, b in zip(found.shape, spec.shape, strict=True))


def test_one_session_holds_each_weight_in_one_node() -> None:
    """All graphs but the loop share a file, and no weight feeds two products: engines pack weights once a node."""
    bundle = micro_bundle.bundle("onnx", "w8")
    manifest, _ = read_manifest(bundle)
    files = {name: graph.file for name, graph in manifest.graphs["onnx"].items()}
    assert len({file for name, file in files.items() if name != "generate"}) == 1

    def products(graph: onnx.GraphProto) -> list[str]:
        found = [node.input[1] for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
        for node in graph.node:
            found += [name for a in node.attribute if a.HasField("g") for name in products(a.g)]
        return found

    multiplied = products(onnx.load(bundle / files["denoise"], load_external_data=False).graph)
    assert len(multiplied) == len(set(multiplied)) > 10


def test_weights_are_stored_once_and_beside_the_graphs() -> None:
    folder = micro_bundle.bundle("onnx") / "onnx"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1.1 * FLOAT_BYTES + OVERHEAD
    places: dict[int, int] = {}
    for name in ("shared.onnx", "generate.onnx"):
        for tensor in onnx.load(folder / name, load_external_data=False).graph.initializer:
            held = {entry.key: entry.value for entry in tensor.external_data}
            if held:
                assert held["location"] == weights.FILE
                offset, length = int(held["offset"]), int(held["length"])
                assert offset % weights.ALIGNMENT == 0 and places.setdefault(offset, length) == length
    assert sum(places.values()) <= FLOAT_BYTES + 8192  # and indices of blocks and ids


@pytest.mark.slow
def test_pte_stores_weights_once() -> None:
    bundle = micro_bundle.bundle("executorch")
    manifest, _ = read_manifest(bundle)
    assert (bundle / "executorch" / "model.pte").stat().st_size <= 1.1 * FLOAT_BYTES + 3 * OVERHEAD
    for counts in manifest.quantization["lowering"]["executorch"]["operations"].values():
        assert counts["matrix_products_on_cpu"] == counts["quantization_on_cpu"] == 0 and counts["delegated"] > 50


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_of_this_machine_is_in_the_files(engine: str) -> None:
    found = []
    bundle = micro_bundle.bundle(engine)
    here = (str(Path.home()), str(Path.cwd()), os.uname().nodename)
    words = {b"/home", b"/tmp", b"site-packages", *(text.encode() for text in here)}
    for path in bundle.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [(path.name, word) for word in words if len(word) > 3 and word in data]
    assert not found
    assert any(b"MatMul" in p.read_bytes() for p in bundle.rglob("*.onnx")) or engine == "executorch"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "executorch"])
def test_exporting_twice_gives_the_same_bytes(engine: str) -> None:
    """In the fast suite `test_shipped.py` holds that of ONNX, with a process of its own."""
    check_bytes(micro_bundle.bundle(engine), micro_bundle.export(engine))


def check_bytes(first: Path, second: Path) -> None:
    names = {p.relative_to(second) for p in second.rglob("*") if p.is_file()}
    assert {p.relative_to(first) for p in first.rglob("*") if p.is_file()} == names and len(names) >= 3
    for name in sorted(names - {Path("manifest.json")}):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert read_manifest(first)[1] == read_manifest(second)[1]


def golden_trajectories(bundle: Path, stem: str) -> list[tuple[Trajectory, int]]:
    with np.load(bundle / FILE) as file:
        seeds = file["seeds"].tolist()
        names = [name for name in Trajectory.__dataclass_fields__ if f"{stem}_0_{name}" in file.files]
        return [(Trajectory(**{n: file[f"{stem}_{i}_{n}"] for n in names}), seed) for i, seed in enumerate(seeds)]


@pytest.mark.parametrize("engine", ENGINES)
def test_golden_is_a_replay(engine: str) -> None:
    bundle = micro_bundle.bundle(engine)
    with Session.load(bundle, engine=engine, threads=1) as session:
        runs = golden_trajectories(bundle, "artifact")
        assert [t.prompt_ids.tolist() for t, _ in runs] == prompts(micro.VOCAB)
        for trajectory, seed in runs:
            session.reset()
            again = session.generate(trajectory.prompt_ids.tolist(), max_new_tokens=128, seed=seed, trace=True).trajectory
            assert again is not None
            for name, array in trajectory.arrays().items():
                np.testing.assert_array_equal(array, getattr(again, name), err_msg=name)
    for (artifact, _), (plain, _) in zip(runs, golden_trajectories(bundle, "float"), strict=True):
        rows = min(len(artifact.step), len(plain.step))
        assert rows > 0
        np.testing.assert_array_equal(artifact.argmax[:rows], plain.argmax[:rows])


def test_golden_prompts_are_cut_to_fit(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(micro_bundle.bundle("onnx"), tmp_path / "b.dgemma"))
    manifest, _ = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, context=32, dims={**manifest.dims, "S": (1, 32), "L": (1, 32)}))
    golden.write(bundle, None, [])
    assert [t.prompt_ids.size for t, _ in golden_trajectories(bundle, "artifact")] == [32 - micro.N] * 4


def test_quiet_lets_errors_through(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("hush", FutureWarning, stacklevel=1)
            logging.getLogger("torch.onnx").warning("hush")
            logging.getLogger("torch.onnx").error("broken")
        warnings.warn("heard", FutureWarning, stacklevel=1)
        logging.getLogger("torch.onnx").warning("heard")
    assert [str(w.message) for w in seen] == ["heard"]
    assert [record.getMessage() for record in caplog.records] == ["broken", "heard"]
