"""The experts' operator in ONNX Runtime: the kernel's bits, on ONNX Runtime's own threads; what is wrong is said."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import micro
import native_experts
import pytest

from dgemma.core.errors import EngineError
from dgemma.export import head
from dgemma.export.pipeline import export_bundle
from dgemma.export.quiet import quiet
from dgemma.runtime.engines.sessions import open_session, session_options
from dgemma.runtime.native import __main__ as command
from dgemma.runtime.native import build
from dgemma.runtime.session import Session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="builds the kernel, which takes a C++ compiler"
)
HIDDEN, WIDTH, CHOSEN = 64, 32, 2


def model(pair: native_experts.Pair) -> bytes:
    """A graph of the operator alone."""
    info, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    sizes, arrays = native_experts.flat(*pair)
    names = [f"array_{i}" for i in range(len(arrays))]
    node = onnx.helper.make_node(
        "Experts",
        ["x", "ids", "weights", *names],
        ["y"],
        domain="dgemma.native",
        hidden=sizes[1],
        width=sizes[2],
        gate_up_group=sizes[4],
        down_group=sizes[5],
    )
    x, ids, weights = (("x", types.FLOAT, HIDDEN), ("ids", types.INT64, CHOSEN), ("weights", types.FLOAT, CHOSEN))
    graph = onnx.helper.make_graph(
        [node],
        "experts",
        [info(n, t, [1, "M", size]) for n, t, size in (x, ids, weights)],
        [info("y", types.FLOAT, [1, "M", HIDDEN])],
        [onnx.numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("dgemma.native", 1)]
    made: bytes = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return made


def session(pair: native_experts.Pair, threads: int) -> Any:
    return open_session(model(pair), session_options(threads))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernels_bits(bits: int, threads: int) -> None:
    pair = native_experts.matrices(bits, 5, HIDDEN, WIDTH)
    opened = session(pair, threads)
    for count in (1, 19):
        x, ids, weights = native_experts.rows(count, HIDDEN, 5, CHOSEN, seed=count)
        (found,) = opened.run(None, {"x": x[None], "ids": ids[None], "weights": weights[None]})
        assert found[0].tobytes() == native_experts.run(*pair, x, ids, weights).tobytes()


def test_an_expert_that_does_not_exist() -> None:
    x, ids, weights = native_experts.rows(3, HIDDEN, 5, CHOSEN)
    opened = session(native_experts.matrices(8), 1)
    with pytest.raises(Exception, match="a chosen expert does not exist"):
        opened.run(None, {"x": x[None], "ids": ids[None] + 5, "weights": weights[None]})
    with pytest.raises(Exception, match="rows do not agree"):
        opened.run(None, {"x": x[None], "ids": ids[None, :2], "weights": weights[None, :2]})


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = model(native_experts.matrices(8))
    assert open_session(made).get_outputs()[0].name == "y"
    (tmp_path / "experts.onnx").write_bytes(made)
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    for source in (made, tmp_path / "experts.onnx"):
        with pytest.raises(EngineError, match=r"mixture of experts.*no-such-compiler.*apt-get install g\+\+"):
            open_session(source)


def test_the_library_that_cmake_builds_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an Android app's build does."""
    if shutil.which("cmake") is None:
        pytest.skip("builds the library with CMake")
    source = (build.EXPERTS[0].parent / "onnx").resolve()
    for line in (["cmake", "-S", source, "-B", tmp_path, "-DCMAKE_BUILD_TYPE=Debug"], ["cmake", "--build", tmp_path]):
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setattr(build, "experts", lambda: tmp_path / "libdgemma_experts.so")
    pair = native_experts.matrices(4, 5, HIDDEN, WIDTH)
    x, ids, weights = native_experts.rows(3, HIDDEN, 5, CHOSEN)
    (found,) = session(pair, 1).run(None, {"x": x[None], "ids": ids[None], "weights": weights[None]})
    assert found[0].tobytes() == native_experts.run(*pair, x, ids, weights).tobytes()


def test_java_is_told_the_path(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert command.main() == 0
    assert capsys.readouterr().out == f"{build.experts()}\n"
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert command.main() == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "error: no C++ compiler (no-such-compiler) is installed\n"


def test_a_mixture_whose_vocabulary_takes_several_tiles_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime infers no shapes behind the operator, and the loop over positions of the head asks for some."""
    monkeypatch.setattr(head, "TILE", 128)
    folder = micro.save(tmp_path / "moe", micro.MOE_CONFIG)
    with quiet():
        bundle = export_bundle(folder, tmp_path / "b.dgemma", engines=("onnx",), recipe="w8", soft="topk:4")
    with Session.load(bundle, threads=1) as opened:
        result = opened.generate(micro.prompt(5), max_new_tokens=micro.N, seed=3)
        assert result.steps >= 1 and len(result.tokens) <= micro.N
        assert opened.generate(micro.prompt(5), max_new_tokens=micro.N, seed=3, loop="graph").tokens == result.tokens
