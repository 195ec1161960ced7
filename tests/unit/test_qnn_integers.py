"""Graphs of integers for an NPU: block scales, ranges of activations, and what a wrong one does, on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import micro_bundle
import numpy as np
import onnx
import pytest
import static_bundle
import torch
from static_feeds import stack_feeds

from dgemma.core.errors import UsageError
from dgemma.export import request
from dgemma.export.onnx.weights import FILE, WeightFile
from dgemma.export.qnn import parts
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.integers import quantize
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.ranges import ranges, with_stored_weights
from dgemma.quantize.recipes import Recipe, find
from dgemma.quantize.write_checkpoint import write_quantized
from dgemma.verify.static_graphs import open_source

SLOTS, LENGTH = 32, 19
RECIPES = {
    "w8a16": find("w8a16"),
    "w4a16": replace(find("w4a16-mixed"), name="w4a16", group=16, rotation=16),
}
Quantized = Mapping[str, QuantizedMatrix]


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return micro.model().eval()


def made(model: Denoiser, quantized: Quantized, seen: Mapping[str, float], folder: Path, **options: Any) -> onnx.ModelProto:
    with (folder / FILE).open("wb") as file:
        source = parts.Source(model=model, quantized=quantized, ranges=seen, weights=WeightFile(file), **options)
        net = parts.layers(source, "layers", (0, model.config.num_layers), micro.N, SLOTS, SLOTS)
    found = net.model()
    (folder / "layers.onnx").write_bytes(found.SerializeToString())
    return found


def opened(path: Path) -> Any:
    return open_source(path, path.read_bytes(), 1)


def error(model: Denoiser, quantized: Quantized, folder: Path) -> float:
    """Relative, of what the written graph computes on the processor, from the model with the integers' values."""
    feeds, wanted = stack_feeds(with_stored_weights(model, quantized), micro.N, SLOTS, LENGTH)
    got = opened(folder / "layers.onnx").run(["hidden"], feeds)[0]
    return float(np.linalg.norm(got - wanted[0]) / np.linalg.norm(wanted[0]))


def seen_by(model: Denoiser, quantized: Quantized) -> dict[str, float]:
    return ranges(model, micro.POLICY, [micro.prompt(LENGTH)], quantized)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
def test_a_graph_of_integers_computes_with_their_values(model: Denoiser, recipe: Recipe, tmp_path: Path) -> None:
    quantized = quantize(model, recipe)
    seen = seen_by(model, quantized)
    made(model, quantized, seen, tmp_path, rounded=frozenset())
    assert error(model, quantized, tmp_path) < 1e-5
    made(model, quantized, seen, tmp_path)
    right = error(model, quantized, tmp_path)
    assert 1e-6 < right < 2e-3

    every = frozenset({"products", "norms", "softmax", "rotations"})
    made(model, quantized, seen, tmp_path, rounded=every)
    assert 1e-6 < error(model, quantized, tmp_path) < 3e-3
    clipped = {key: value / 50 if key.endswith("down_proj.in") else value for key, value in seen.items()}
    made(model, quantized, clipped, tmp_path)
    assert error(model, quantized, tmp_path) > 20 * right, "a wrong range is not seen"
    name = "layers.0.mlp.up_proj.weight"
    flipped = {**quantized, name: replace(quantized[name], scale=-quantized[name].scale)}
    made(model, flipped, seen, tmp_path)
    assert error(model, quantized, tmp_path) > 20 * right, "a flipped scale is not seen"


def test_four_bits_are_stored_as_four_in_blocks(model: Denoiser, tmp_path: Path) -> None:
    quantized = quantize(model, RECIPES["w4a16"])
    graph = made(model, quantized, seen_by(model, quantized), tmp_path).graph
    stored = {t.name: t for t in graph.initializer}
    matrix = quantized["layers.1.mlp.down_proj.weight"]
    integers = stored["layers.1.mlp.down_proj.weight.integers"]
    assert matrix.multipliers is not None and matrix.rotation == 16
    assert integers.data_type == onnx.TensorProto.INT4 and list(integers.dims) == [48, 32]
    expands = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == integers.name]
    block = {a.name: a.i for a in expands[0].attribute}
    assert block == {"axis": 0, "block_size": 16}
    scales = onnx.numpy_helper.to_array(stored["layers.1.mlp.down_proj.weight.scale"], base_dir=str(tmp_path))
    assert np.array_equal(scales, (matrix.multipliers * matrix.scale[:, None]).t().numpy())
    assert {t.data_type for t in graph.initializer if t.name.startswith("layers.1.self_attn.q_proj.weight.i")} == {
        onnx.TensorProto.INT8
    }


def test_an_odd_number_of_outputs_has_eight_bits(tmp_path: Path) -> None:
    integers = torch.tensor([[1, -8], [7, 3], [2, -1]], dtype=torch.int8)
    matrix = QuantizedMatrix(
        bits=4,
        integers=integers,
        scale=torch.tensor([0.5, 0.25, 1.0]),
        multipliers=torch.tensor([[3], [2], [15]]).to(torch.int8),
    )
    with (tmp_path / FILE).open("wb") as file:
        source = parts.Source(model=micro.model(), quantized={}, ranges={}, weights=WeightFile(file))
        net = source.net("odd")
        x = net.input("x", (1, 1, 2))
        net.output(parts.PartNet(source, net, 1).product(x, "p", "p.weight", matrix), "y", (1, 1, 3))
    (tmp_path / "odd.onnx").write_bytes(net.model().SerializeToString())
    x_values = np.array([[[1.0, 2.0]]], np.float32)
    wanted = x_values @ matrix.dequantize().t().numpy()
    assert np.array_equal(opened(tmp_path / "odd.onnx").run(None, {"x": x_values})[0], wanted)


def test_ranges_hold_what_is_seen_and_twice_that(model: Denoiser, tmp_path: Path) -> None:
    """The range of a product's input is that of what it reads while the model denoises, rotated as it is; graphs double it."""
    quantized = quantize(model, RECIPES["w4a16"])
    stored, seen = with_stored_weights(model, quantized), seen_by(model, quantized)
    found = list[float]()
    layer: Any = stored.layers[1]
    layer.mlp.down_proj.register_forward_hook(lambda _, inputs, out: found.append(float(out.abs().max())))
    ranges(stored, micro.POLICY, [micro.prompt(LENGTH)], {})
    assert max(found) == pytest.approx(seen["layers.1.mlp.down_proj.out"], rel=1e-4)
    graph = made(model, quantized, seen, tmp_path).graph
    scalars = {t.name: onnx.numpy_helper.to_array(t).item() for t in graph.initializer if list(t.dims) == [1]}
    steps = {scalars[n.input[1]] for n in graph.node if n.op_type == "QuantizeLinear"}
    wanted = 2 * seen["layers.1.mlp.down_proj.out"] / (2**15 - 1)
    assert any(step == pytest.approx(wanted, rel=1e-6) for step in steps)


def test_a_quantized_checkpoint_gives_the_same_graphs(tmp_path: Path) -> None:
    write_quantized(micro_bundle.checkpoint(), tmp_path / "quantized", find("w8a16"))
    again = static_bundle.export(tmp_path / "quantized", tmp_path / "again.dgemma", "w8a16")
    wanted = static_bundle.bundle("w8a16")
    names = sorted(path.name for path in (wanted / "qnn").iterdir() if path.is_file())
    assert len(names) > 10
    for name in names:
        assert (again / "qnn" / name).read_bytes() == (wanted / "qnn" / name).read_bytes(), name
    with pytest.raises(UsageError, match=r"w8a16: 16-bit activations are for accelerators; add --target qnn:CHIP"):
        request.check(tmp_path / "quantized", engines=("onnx",))
