"""ExecuTorch's products alone: they compute what the exporter's modules do, are made once, and what is missing is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shared

from dgemma.benchmarks.bench import ceilings, xnnpack
from dgemma.benchmarks.bench.ceilings import PRODUCTS
from dgemma.core.install import pip_install
from dgemma.runtime.native import build
from dgemma.runtime.native.binding import Program

SHAPE = (4, 128, 16, 16)  # rows, inner, outer, copies; what `ceilings.Probe` makes of the first three
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="builds the library, which takes a C++ compiler"
)


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("executorch")
    folder = shared.native_cache(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGEMMA_CACHE", str(folder))
        patch.delenv("DGEMMA_NATIVE", raising=False)
        yield folder


def outputs(file: Path, x: Any) -> list[Any]:
    program = Program(build.library(), file, threads=1)
    program.load("forward", 1, SHAPE[3])
    found = program.run("forward", [x])
    program.close()
    return found


@needs_compiler
@pytest.mark.parametrize("form", PRODUCTS)
def test_a_program_multiplies_as_the_exporter_does(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is lowered by a process of its own, as all are in use; the others in this one, which has loaded torch already."""
    product = pytest.importorskip("dgemma.export.executorch.product")
    import torch

    if form != "int8":
        monkeypatch.setattr(xnnpack, "_export", lambda file, form, shape: product.write(file, form, *shape))
    x = np.random.default_rng(0).standard_normal((1, SHAPE[0], SHAPE[1]), dtype=np.float32)
    found = outputs(xnnpack._program(form, SHAPE), x)
    expected = [y.detach().numpy() for y in product.Products(form, *SHAPE[1:])(torch.from_numpy(x))]
    assert [y.shape for y in found] == [(1, SHAPE[0], 1)] * SHAPE[3]
    scale = float(np.abs(expected).max())
    assert np.abs(np.subtract(found, expected)).max() < 1e-5 * scale
    assert np.abs(np.subtract(found[::-1], expected)).max() > 0.1 * scale  # the other weights
    fewer = outputs(xnnpack._program(form, SHAPE), x[:, :1].copy())  # rows are open
    assert np.abs(np.subtract(fewer, np.array(expected)[:, :, :1])).max() < 1e-5 * scale


@needs_compiler
def test_products_run_and_programs_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    xnnpack.products(("int8", "float32"), SHAPE, 1)
    monkeypatch.setattr(xnnpack, "_export", lambda *_: pytest.fail("it was made again"))
    found, missing = xnnpack.products(("int8", "float32"), SHAPE, 1)
    assert [[y.shape for y in run()] for run in found.values()] == 2 * [SHAPE[3] * [(1, SHAPE[0], 1)]]
    assert not missing


def test_a_program_of_another_version_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path))
    old = tmp_path / f"product-int4-{'x'.join(map(str, SHAPE))}-executorch-1.0-0"
    old.mkdir()
    monkeypatch.setattr(xnnpack, "_export", lambda file, *_: file.write_bytes(b"made anew"))
    xnnpack._program("int8", SHAPE)
    assert old.is_dir()
    assert xnnpack._program("int4", SHAPE).read_bytes() == b"made anew"
    assert not old.exists()


@needs_compiler
def test_ceilings_of_executorch_are_of_what_the_bundle_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "BEST_S", 0.01)
    top = ceilings.Probe(4, 128, 16, 1 << 20, threads=1, engine="executorch", bits=(4, 8)).ceilings()
    assert set(top.kernels) == set(PRODUCTS), top.missing_kernels
    assert all(1e6 < rate < 1e15 for rate in top.kernels.values())
    assert top.kernels != top.products


@needs_compiler
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_package", f"needs the export extra; {pip_install('export')}"),
        ("raise AssertionError('groups of 128 do not divide 130 inputs')", "groups of 128 do not divide 130"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import sys; open(sys.argv[1], 'w').write('no program')", "executorch cannot load"),
    ],
)
def test_a_product_that_cannot_be_made_is_said(
    source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    (tmp_path / "other_exporter.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(xnnpack, "EXPORTER", "other_exporter")
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "library", lambda found=build.library: library(found, cache_folder))
    found, missing = xnnpack.products(("int8",), (4, 130, 16, 1), 1)
    assert found == {}
    assert says in missing["int8"]
    left = [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")]
    assert len(left) == (says == "executorch cannot load")  # what was not made is not kept


def library(found: Callable[[], Path], folder: Path) -> Path:
    """The one that the other tests built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGEMMA_CACHE", str(folder))
        return found()


def test_without_the_native_library_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGEMMA_NATIVE", "0")
    monkeypatch.setattr(xnnpack, "_export", lambda *_: pytest.fail("it was made for nothing"))
    found, missing = xnnpack.products(("int8", "float32"), SHAPE, 1)
    assert found == {}
    assert missing == dict.fromkeys(("int8", "float32"), "needs the native executorch library: DGEMMA_NATIVE=0")


@needs_compiler
def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    (tmp_path / "no folder").write_bytes(b"")
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "no folder"))
    monkeypatch.setattr(build, "library", lambda found=build.library: library(found, cache_folder))
    found, missing = xnnpack.products(("int8",), SHAPE, 1)
    assert found == {}
    assert "cannot be kept" in missing["int8"]
