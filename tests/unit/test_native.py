"""The native ExecuTorch library: built once, named, said where it cannot be had; the same bits as the stock binding's."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import micro_bundle
import numpy as np
import pytest
import shared

from dgemma.core.errors import DgemmaWarning, EngineError
from dgemma.export.pipeline import export_bundle
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import executorch
from dgemma.runtime.engines.base import Engine, Feeds
from dgemma.runtime.engines.executorch import ExecutorchEngine, variant
from dgemma.runtime.native import build
from dgemma.runtime.native.binding import Program
from dgemma.runtime.session import Session

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="builds the library, which takes a C++ compiler"
)
GRAPHS = ("encode", "denoise", "decode", "check", "generate")


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("executorch")
    folder = shared.native_cache(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGEMMA_CACHE", str(folder))
        patch.delenv("DGEMMA_NATIVE", raising=False)
        yield folder


def feeds(bundle: Bundle, graph: str, sizes: dict[str, int], seed: int = 0) -> Feeds:
    """Random inputs that a graph takes; open sizes are given."""
    rng, model, found = np.random.default_rng(seed), bundle.manifest.model, {}
    sizes = {"L": sizes["S"], **sizes}
    for spec in bundle.graph("executorch", graph).inputs:
        shape = [sizes.get(d, sizes["C"]) if isinstance(d, str) else d for d in spec.shape]
        if spec.name in ("tokens", "canvas"):
            found[spec.name] = rng.integers(0, model.vocab_size, shape)
        elif spec.name == "words":
            found[spec.name] = rng.integers(0, 2**32, shape)
        elif spec.dtype == "float32":
            found[spec.name] = (rng.random(shape) + 0.1).astype(np.float32)
        elif spec.name == "rows":
            found[spec.name] = np.arange(sizes["C"])
        else:
            found[spec.name] = np.full(shape, spec.dtype != "bool" and sizes["C"], spec.dtype)
    return found


def outputs(engine: Engine, sizes: dict[str, int], seed: int = 0) -> dict[str, tuple[Any, ...]]:
    """Bits, types and shapes of all outputs of all graphs."""
    found = {}
    for graph in GRAPHS:
        for name, array in engine.run(graph, feeds(engine.bundle, graph, sizes, seed)).items():
            found[f"{graph}.{name}"] = (array.dtype.str, array.shape, array.tobytes())
    return found


def open_engine(bundle: Bundle, native: bool = True) -> ExecutorchEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGEMMA_NATIVE", str(int(native)))
        return ExecutorchEngine(bundle, version="1.5.1", threads=1)


@pytest.fixture(scope="module")
def micro() -> Bundle:
    """With eight bits."""
    return Bundle.open(micro_bundle.bundle("executorch", "w8"))


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    """In float32."""
    return Bundle.open(tiny_bundle)


def check_bits(bundle: Bundle) -> None:
    native, stock = open_engine(bundle), open_engine(bundle, native=False)
    assert (native.variant, stock.variant) == ("native", "stock binding")
    for sizes in ({"C": 3, "S": 128}, {"C": 16, "S": 64, "L": 9}, {"C": 1, "S": 1}, {"C": 3, "S": 128}):
        found = outputs(native, sizes)
        assert found == outputs(stock, sizes)
        assert found["decode.new_key_0"] != outputs(stock, sizes, seed=1)["decode.new_key_0"]
    native.close()


@pytest.mark.parametrize("name", ["tiny", "micro"])
def test_the_same_bits_as_the_stock_binding(name: str, request: pytest.FixtureRequest) -> None:
    check_bits(request.getfixturevalue(name))


@pytest.mark.slow
def test_the_same_bits_with_weights_of_four(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = export_bundle(tiny_checkpoint, tmp_path / "b.dgemma", engines=("executorch",), recipe="w4-mixed")
    check_bits(Bundle.open(out))


def test_models_do_not_take_each_others_weights(tiny: Bundle, micro: Bundle) -> None:
    """Weights are known by their names, which are the same in every bundle."""
    sizes = {"C": 3, "S": 64}
    alone = outputs(open_engine(micro), sizes)
    first = open_engine(tiny)
    before = outputs(first, sizes)
    assert outputs(open_engine(micro), sizes) == alone != before
    assert outputs(first, sizes) == before


def test_no_torch_and_nothing_on_stderr(micro: Bundle) -> None:
    """In a process of its own: torch costs seconds, and the library would print what it finds of the processor."""
    code = (
        "import sys\nfrom dgemma.runtime.session import Session\n"
        f"s = Session.load({str(micro.path)!r}, engine='executorch', threads=2)\n"
        "for loop in ('host', 'graph'): s.generate([1, 2, 3], loop=loop, max_new_tokens=4, raw=True)\n"
        "s.close(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "src"})
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["False"], "")


def test_failures_are_one_line_and_close_frees(micro: Bundle, tmp_path: Path) -> None:
    library, whole = build.library(), micro.file("executorch/model.pte")
    for damaged in (b"", whole.read_bytes()[:100], whole.read_bytes()[:-4096], b"x" * 10_000):
        (tmp_path / "model.pte").write_bytes(damaged)
        with pytest.raises(EngineError) as caught:
            Program(library, tmp_path / "model.pte").load("denoise", 1, 1)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 700
    with pytest.raises(EngineError, match="too long"):
        Program(library, whole, packed=Path("/" + "x" * 300))
    program = Program(library, whole)
    with pytest.raises(EngineError, match="nothing"):
        program.load("nothing", 1, 1)
    program.load("encode", 7, 4)
    assert program.has("encode") and not program.has("nothing")
    with pytest.raises(RuntimeError, match="encode"):
        program.run("encode", [np.zeros(3, np.float32)] * 7)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(whole) in maps.read_text()
        program.close()
        assert str(whole) not in maps.read_text()


def test_without_a_compiler_the_stock_binding_runs_and_says_so(
    micro: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(DgemmaWarning, match=r"stock binding.*no C\+\+ compiler"):
        engine = ExecutorchEngine(micro, version="1.5.1")
    assert engine.variant == "stock binding"
    assert "compiler" in variant()
    monkeypatch.setenv("DGEMMA_NATIVE", "1")
    with pytest.raises(EngineError, match=r"compiler .*DGEMMA_NATIVE=1"):
        ExecutorchEngine(micro, version="1.5.1")
    monkeypatch.setenv("DGEMMA_NATIVE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ExecutorchEngine(micro, version="1.5.1").variant == "stock binding"


@pytest.mark.parametrize("missing", ["torch", "the entry point"])
def test_without_a_compiler_and_the_stock_binding_it_says_what_to_install(
    micro: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if missing == "torch":
        monkeypatch.setitem(sys.modules, "torch", None)
        monkeypatch.delitem(sys.modules, "dgemma.export.executorch.stock_binding", raising=False)
        find = util.find_spec
        monkeypatch.setattr(util, "find_spec", lambda name: None if name == "torch" else find(name))
    else:
        monkeypatch.setattr(executorch, "BINDINGS", "dgemma.no_such_group")
    with pytest.raises(EngineError, match=r"no C\+\+ compiler.*apt-get install g\+\+.*torch: pip install .*export"):
        ExecutorchEngine(micro, version="1.5.1")
    assert variant().startswith("cannot run")
    monkeypatch.setenv("DGEMMA_NATIVE", "0")
    with pytest.raises(EngineError, match=r"stock binding is not installed .*pip install .*export.*unset DGEMMA_NATIVE"):
        ExecutorchEngine(micro, version="1.5.1")


def compiler(folder: Path, then: str) -> Path:
    """A compiler that leaves a line in a log, and then does something."""
    script = folder / "cxx"
    script.write_text(f'#!/bin/sh\necho run >> "{folder / "log"}"\n{then}\n')
    script.chmod(0o755)
    return script


def test_a_failed_build_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler(tmp_path, "echo 'a.h:1: error: no such thing' >&2; exit 1")))
    assert variant() == "native, built at first use"
    for _ in range(2):
        with pytest.raises(build.Unavailable, match=r"no such thing.*delete"):
            build.library()
    assert (tmp_path / "log").read_text() == "run\n"
    assert "no such thing" in variant()


def build_it(results: Any) -> None:
    results.put(str(build.library()))


def test_two_processes_build_it_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    library = build.SOURCES[1]
    then = f'while [ "$1" != -o ]; do shift; done; sleep 0.2; cp "{library}" "$2"'
    monkeypatch.setenv("CXX", str(compiler(tmp_path, then)))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    racers = [context.Process(target=build_it, args=(results,)) for _ in range(3)]
    for racer in racers:
        racer.start()
    built = {results.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join(60)
    assert len(built) == 1 and Path(built.pop()).read_bytes() == library.read_bytes()
    assert (tmp_path / "log").read_text() == "run\n"


def test_what_does_not_load_falls_back(micro: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler(tmp_path, 'while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"')))
    with pytest.warns(DgemmaWarning, match="does not load"):
        assert ExecutorchEngine(micro, version="1.5.1").variant == "stock binding"


def test_the_example_generates_what_a_session_does(micro: Bundle, tmp_path: Path) -> None:
    """Several chunks of prompt and several canvases, by the example as its CMake file builds it."""
    if shutil.which("cmake") is None:
        pytest.skip("builds the example with CMake")
    path = micro.path
    source = build.SOURCES[0].parent.resolve()
    for command in (
        ["cmake", "-S", source, "-B", tmp_path, f"-DEXECUTORCH_ROOT={build.wheel()}", "-DCMAKE_CXX_FLAGS=-O0"],
        ["cmake", "--build", tmp_path],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    prompt = [(7 + 13 * i) % 300 for i in range(40)]
    with Session.load(path, engine="executorch") as session:
        for seed in (0, 2**40 + 5):
            wanted = session.generate(prompt, loop="graph", seed=seed, max_new_tokens=40, raw=True).tokens
            command = [tmp_path / "dgemma_generate", path, ",".join(map(str, prompt)), str(seed), "40"]
            text = subprocess.run(command, capture_output=True, text=True)
            assert (text.stderr, json.loads(f"[{text.stdout}]")) == ("", list(wanted))
    missing = subprocess.run([tmp_path / "dgemma_generate", tmp_path, "1"], capture_output=True, text=True)
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1


def test_sources_are_in_the_wheel(repo_root: Path) -> None:
    patterns = tomllib.loads((repo_root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = build.SOURCES[0].parent
    packed = {path for pattern in patterns["dgemma.runtime.native"] for path in folder.glob(pattern)}
    there = {p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert packed == there and set(build.SOURCES) <= packed
