"""Both real engines on a graph of one addition: feeds in, outputs out, and every failure as one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import manifest, spec

from dgemma.core.errors import DgemmaError, EngineError
from dgemma.core.manifest import GraphSpec, list_files, write_manifest
from dgemma.runtime import engines
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Engine

INPUTS = (spec("a", "float32", 1, "C"), spec("b", "float32", 1, "C"))
OUTPUTS = (spec("difference", "float32", 1, "C"), spec("positive", "bool", 1, "C"))


def write_onnx(path: Path) -> None:
    from onnx import TensorProto, helper, save

    def value(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [1, "C"])

    nodes = [
        helper.make_node("Sub", ["a", "b"], ["difference"]),
        helper.make_node("Greater", ["a", "b"], ["positive"]),
    ]
    inputs = [value("b", TensorProto.FLOAT), value("a", TensorProto.FLOAT)]  # ONNX goes by name, so the order is free
    outputs = [value("difference", TensorProto.FLOAT), value("positive", TensorProto.BOOL)]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    save(model, str(path))


def write_pte(path: Path) -> None:
    import torch
    from executorch.exir import to_edge

    class Difference(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return a - b, a > b

    example = (torch.zeros(1, 4), torch.zeros(1, 4))
    size = torch.export.Dim("C", min=2, max=24)
    program = torch.export.export(Difference(), example, dynamic_shapes={"a": {1: size}, "b": {1: size}})
    path.write_bytes(to_edge(program).to_executorch().buffer)


@pytest.fixture(params=["onnx", "executorch"], scope="module")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the one graph, under several names."""
    pytest.importorskip("onnxruntime" if request.param == "onnx" else "executorch.runtime")
    path = tmp_path_factory.mktemp(request.param) / "b"
    (path / request.param).mkdir(parents=True)
    file = f"{request.param}/graph.bin"
    write: Callable[[Path], None] = write_onnx if request.param == "onnx" else write_pte
    write(path / file)
    (path / "broken.bin").write_bytes((path / file).read_bytes()[:100])
    method = "forward" if request.param == "executorch" else None
    graph = GraphSpec(file=file, method=method, inputs=INPUTS, outputs=OUTPUTS)
    graphs = {
        "subtract": graph,
        "again": graph,
        "broken": replace(graph, file="broken.bin"),
        "misnamed": replace(graph, method="nothing", inputs=(*INPUTS[:1], spec("c", "float32", 1, "C"))),
        "mistyped": replace(graph, outputs=(OUTPUTS[0], spec("positive", "float32", 1, "C"))),
    }
    made = manifest((request.param,), tokenizer=None, graphs={request.param: graphs}, dims={"C": (1, 1000)})
    write_manifest(path, replace(made, files=list_files(path)))
    return Bundle.open(path)


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return engines.open_engine(bundle, None, threads=1)


def feeds(size: int = 3) -> dict[str, Any]:
    return {"b": np.ones((1, size), np.float32), "a": np.arange(size, dtype=np.float32)[None]}


def test_arrays_go_in_and_out(engine: Engine) -> None:
    for size in (3, 5, 3):
        for graph in ("subtract", "again"):
            out = engine.run(graph, feeds(size))
            assert out["difference"].tolist() == [[i - 1 for i in range(size)]] and out["difference"].dtype == np.float32
            assert out["positive"].tolist() == [[i > 1 for i in range(size)]] and out["positive"].dtype == np.bool_
    assert engine.seconds > 0 and engine.version[0].isdigit()


def test_outputs_are_the_callers(engine: Engine) -> None:
    """A later run must not write into arrays that an earlier one returned."""
    first = engine.run("subtract", feeds())["difference"]
    engine.run("subtract", {"a": np.full((1, 3), 9, np.float32), "b": np.zeros((1, 3), np.float32)})
    assert first.tolist() == [[-1, 0, 1]]


def test_failures_are_one_line(engine: Engine) -> None:
    engine.run("subtract", feeds())
    for graph in ("broken", "misnamed", "mistyped"):
        if graph == "misnamed" and engine.name == "onnx":
            given = {"a": feeds()["a"], "c": feeds()["b"]}
        else:
            given = feeds() if graph != "misnamed" else {"a": feeds()["a"], "c": feeds()["b"]}
        with pytest.raises(DgemmaError) as caught:
            engine.run(graph, given)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    if engine.name == "executorch":
        with pytest.raises(EngineError, match=r"executorch .* failed on graph 'subtract'"):
            engine.run("subtract", feeds(25))  # the manifest allows what the program does not
    assert engine.run("subtract", feeds())["difference"].tolist() == [[-1, 0, 1]]


def test_close_frees_and_two_engines_live_side_by_side(bundle: Bundle) -> None:
    one, two = engines.open_engine(bundle, None, None), engines.open_engine(bundle, None, None)
    one.run("subtract", feeds())
    one.close()
    assert two.run("subtract", feeds())["positive"].tolist() == [[False, False, True]]


@pytest.mark.parametrize("location", ["../outside.bin", "{root}/outside.bin", "sub/../../outside.bin", "weights.bin"])
def test_external_weights_stay_inside_the_bundle(tmp_path: Path, location: str) -> None:
    """onnxruntime refuses a weight file outside the model's folder; a bundle's own file is the control."""
    onnx = pytest.importorskip("onnx")
    path, weights = tmp_path / "b", np.arange(4096, dtype=np.float32)
    (path / "onnx").mkdir(parents=True)
    weights.tofile(path / "onnx" / "weights.bin")
    weights.tofile(path / "outside.bin")
    tensor = onnx.TensorProto(name="b", data_type=1, dims=[1, 4096], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location.format(root=path)), ("offset", "0"), ("length", "16384")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    value = [onnx.helper.make_tensor_value_info(n, 1, [1, 4096]) for n in ("a", "difference")]
    node = onnx.helper.make_node("Sub", ["a", "b"], ["difference"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], [tensor])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 10
    (path / "onnx" / "graph.onnx").write_bytes(model.SerializeToString())
    tensors = tuple(spec(n, "float32", 1, 4096) for n in ("a", "difference"))
    graphs = {"onnx": {"subtract": GraphSpec(file="onnx/graph.onnx", inputs=tensors[:1], outputs=tensors[1:])}}
    write_manifest(path, replace(manifest(("onnx",), tokenizer=None, graphs=graphs), files=list_files(path)))
    engine = engines.open_engine(Bundle.open(path), "onnx", 1)
    feeds = {"a": np.zeros((1, 4096), np.float32)}
    if location == "weights.bin":
        assert engine.run("subtract", feeds)["difference"][0, 5] == -5
    else:
        with pytest.raises(EngineError, match=r"failed on graph 'subtract'.*[Ee]xternal"):
            engine.run("subtract", feeds)
