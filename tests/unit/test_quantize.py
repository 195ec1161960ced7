"""Integers against a naive twin, and recipes as data."""

from __future__ import annotations

from dataclasses import replace

import micro
import pytest
import torch

from dgemma.core.errors import UsageError
from dgemma.quantize.integers import quantize, quantize_rows
from dgemma.quantize.recipes import CLASSES, RECIPES, Recipe, class_of, find


def test_rows_round_to_the_nearest_of_255_levels() -> None:
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 7)[:, None]
    matrix = quantize_rows(weight)
    assert matrix.integers.dtype == torch.int8 and matrix.scale.shape == (7,)
    for row, integers, scale in zip(weight.tolist(), matrix.integers.tolist(), matrix.scale.tolist(), strict=True):
        assert max(map(abs, integers)) == 127  # the largest magnitude uses the whole range, and −128 never occurs
        for value, integer in zip(row, integers, strict=True):
            assert abs(value - integer * scale) <= 0.5001 * scale
    worst = ((matrix.dequantize() - weight).abs() / matrix.scale[:, None]).max()
    assert 0.4 < worst <= 0.5001


def test_a_row_of_zeros_stays_zero() -> None:
    matrix = quantize_rows(torch.zeros(2, 4))
    assert matrix.scale.tolist() == [1.0, 1.0]
    assert not matrix.dequantize().any()


@pytest.mark.parametrize("config", [micro.CONFIG, micro.MOE_CONFIG])
def test_every_matrix_has_a_class_and_no_vector_has_one(config: object) -> None:
    for name, parameter in micro.model(config).named_parameters():  # type: ignore[arg-type]
        assert (class_of(name) is not None) == (parameter.ndim > 1), name


def test_w8_takes_every_matrix_and_fp32_none() -> None:
    model = micro.model()
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert set(quantize(model, find("w8"))) == matrices
    assert quantize(model, find("fp32")) == {}


def test_a_recipe_quantizes_only_its_classes() -> None:
    recipe = replace(find("w8"), bits={**find("w8").bits, "embedding": 32, "mlp_down": 32})
    names = set(quantize(micro.model(), recipe))
    assert "embed_tokens.weight" not in names and not any("mlp.down_proj" in name for name in names)
    assert "layers.0.mlp.up_proj.weight" in names


def test_recipes_are_checked_against_engines() -> None:
    for recipe in RECIPES.values():
        recipe.check(("onnx", "executorch"), experts=False)
    with pytest.raises(UsageError, match="choose fp32 or w8"):
        find("w3")
    with pytest.raises(UsageError, match="onnx cannot run 4-bit attention"):
        Recipe(name="w4", bits={**dict.fromkeys(CLASSES, 32), "attention": 4}).check(("onnx",), experts=False)
    with pytest.raises(UsageError, match="mixture-of-experts"):
        find("w8").check(("onnx",), experts=True)
    find("fp32").check(("onnx",), experts=True)
