"""The canonical integers in the graphs: read back equal, and multiplied as the eager simulation multiplies them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import micro_bundle
import mixture
import numpy as np
import onnxruntime as ort
import pytest
import torch

from dgemma.core.config import ModelConfig
from dgemma.export import graphs
from dgemma.export.onnx.linear import replace as replace_for_onnx
from dgemma.export.onnx.lower import lower
from dgemma.quantize.fake_quant import fake_quantize
from dgemma.quantize.integers import quantize
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.read_onnx import read_integers
from dgemma.quantize.recipes import RECIPES, Recipe
from dgemma.runtime.engines.sessions import open_session, session_options

SHAPES = graphs.Shapes(canvas=micro.N, chunk=64, context=micro.CONTEXT)
FOUR = replace(RECIPES["w4-all"], name="micro", group=16, rotation=16)
CASES = {
    "w8": (micro.CONFIG, RECIPES["w8"]),
    "w4": (micro.CONFIG, FOUR),
    "w4, experts": (micro.MOE_CONFIG, FOUR),  # in the fast suite, experts are held by `test_experts_read_back_equal`
}


@pytest.fixture(scope="module", params=["w8", "w4", pytest.param("w4, experts", marks=pytest.mark.slow)])
def lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config, recipe = CASES[request.param]
    model = micro.model(config)
    quantized = quantize(model, recipe)
    if config == micro.CONFIG:
        bundle = micro_bundle.four_bits() if recipe is FOUR else micro_bundle.bundle("onnx", recipe.name)
        return config, recipe, model, quantized, bundle / "onnx"
    folder = tmp_path_factory.mktemp("onnx")
    lower(model, quantized, micro.POLICY, SHAPES, folder, lambda _: None)
    return config, recipe, model, quantized, folder


def test_read_back_equal(lowered: tuple[ModelConfig, Recipe, Any, dict[str, QuantizedMatrix], Path]) -> None:
    _, recipe, _, quantized, folder = lowered
    read_back(folder, recipe, quantized)


def test_experts_read_back_equal() -> None:
    """Of both stacks, which are laid out for the kernel; multiplied in `test_mixture.py`."""
    quantized = quantize(mixture.model(), RECIPES["w8"])
    assert any(".experts." in name for name in quantized)
    read_back(mixture.bundle("onnx", "w8") / "onnx", RECIPES["w8"], quantized)


def read_back(folder: Path, recipe: Recipe, quantized: dict[str, QuantizedMatrix]) -> None:
    """Both graph files hold these matrices."""
    for graph in ("shared.onnx", "generate.onnx"):
        found = read_integers(folder / graph)
        assert found.keys() == quantized.keys()
        for name, matrix in quantized.items():
            assert found[name].bits == matrix.bits == recipe.bits_of(name)
            assert torch.equal(found[name].integers, matrix.integers), name
            assert torch.equal(found[name].scale, matrix.scale), name
            assert torch.equal(found[name].expanded(), matrix.expanded()), name
            assert not torch.equal(found[name].integers, matrix.integers + 1)


def step(session: ort.InferenceSession, feeds: dict[str, Any]) -> Any:
    return session.run(["next_soft"], feeds)[0]


def test_a_step_follows_its_integers(lowered: tuple[ModelConfig, Recipe, Any, dict[str, QuantizedMatrix], Path]) -> None:
    """The lowered step, with weights folded or not, is far nearer to the simulation than to the float model.

    Not equal: a last-bit difference before activations are rounded moves some to the next integer.
    """
    config, _, model, quantized, folder = lowered
    simulated, own = fake_quantize(model, quantized), graphs.sharing(model)
    replace_for_onnx(own, quantized)
    sessions = []
    for fold in ("0", "1"):
        options = session_options()
        options.add_session_config_entry("session.disable_quant_qdq", fold)
        sessions.append(open_session(folder / "shared.onnx", options))
    flat = graphs.flatten(micro.prefix(model, 21, 64))
    names = [spec.name for spec in graphs.prefix_specs(config, "S")]
    ratios = []
    for seed in range(5):
        canvas, words = micro.noise(seed)
        soft = torch.zeros(1, micro.N, config.hidden_size)
        arguments = (canvas, soft, words[0], torch.tensor([0.7]), torch.tensor([21]), flat)
        with torch.no_grad():
            wanted, same, exact = (graphs.Denoise(m, micro.POLICY)(*arguments)[4].numpy() for m in (simulated, own, model))
        feeds = {name: tensor.numpy() for name, tensor in zip(names, flat, strict=True)}
        feeds |= {"canvas": canvas.numpy(), "soft": soft.numpy(), "words": words[0].numpy()}
        feeds |= {"temperature": np.array([0.7], np.float32), "prefix_length": np.array([21])}
        found, unfolded = step(sessions[0], feeds), step(sessions[1], feeds)
        assert np.array_equal(found, unfolded)
        assert np.square(same - wanted).sum() < 0.05 * np.square(exact - wanted).sum()
        ratios.append(np.square(found - wanted).sum() / np.square(exact - wanted).sum())
    assert np.median(ratios) < 0.1, ratios


def compare(onnx: Path, pte: Path, quantized: Mapping[str, QuantizedMatrix]) -> None:
    """Integers and scales of one quantized model, read back out of the files of both engines: bit for bit."""
    from dgemma.export.executorch.read import read_integers as read_pte

    mine, other = read_integers(onnx / "shared.onnx"), read_pte(pte)
    assert mine.keys() == other.keys() == quantized.keys()
    for name, matrix in quantized.items():
        assert torch.equal(mine[name].integers, other[name].integers) and torch.equal(mine[name].integers, matrix.integers)
        multipliers, scale = mine[name].multipliers, mine[name].scale
        assert torch.equal(scale if multipliers is None else multipliers * scale[..., None], other[name].scale), name
        assert not torch.equal(mine[name].integers, other[name].integers + 1)


def test_both_artifacts_hold_the_same_integers() -> None:
    onnx, executorch = (micro_bundle.bundle(engine, "w8") for engine in ("onnx", "executorch"))
    compare(onnx / "onnx", executorch / "executorch" / "model.pte", quantize(micro.model(), RECIPES["w8"]))


@pytest.mark.slow
def test_both_artifacts_hold_the_same_groups_of_four_bits(tmp_path: Path) -> None:
    from dgemma.export.executorch import lower as executorch

    model = micro.model(replace(micro.CONFIG, intermediate_size=64))
    recipe = replace(FOUR, group=32)
    quantized = quantize(model, recipe)
    lower(model, quantized, micro.POLICY, SHAPES, tmp_path / "onnx", lambda _: None)
    executorch.lower(model, quantized, micro.POLICY, SHAPES, tmp_path / "model.pte", lambda _: None)
    compare(tmp_path / "onnx", tmp_path / "model.pte", quantized)
