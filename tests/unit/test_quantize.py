"""Integers and scales against naive twins: round to nearest, two-level scales, GPTQ, packing, and the fake-quantized model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import micro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgemma.core.errors import CheckpointError, UsageError
from dgemma.quantize.activations import quantize_tokens
from dgemma.quantize.fake_quant import fake_quantize
from dgemma.quantize.gptq import gptq
from dgemma.quantize.hadamard import hadamard, rotate_inputs
from dgemma.quantize.integers import quantize, quantize_matrix, quantize_rows
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.packing import pack, unpack
from dgemma.quantize.recipes import class_of, find
from dgemma.quantize.rounding import LEVELS_4, round_4, round_8

W4 = replace(find("w4-all"), group=16)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(weight: Tensor, matrix: QuantizedMatrix) -> Tensor:
    """Squared error of every row."""
    return (matrix.dequantize() - weight).double().square().sum(-1)


def test_rows_round_to_the_nearest_of_255_levels() -> None:
    weight = normal(7, 33) * torch.logspace(-6, 6, 7)[:, None]
    matrix = quantize_rows(weight)
    assert matrix.integers.dtype == torch.int8 and matrix.scale.shape == (7,)
    for row, integers, scale in zip(weight.tolist(), matrix.integers.tolist(), matrix.scale.tolist(), strict=True):
        assert max(map(abs, integers)) == 127  # the largest magnitude uses the whole range, and −128 never occurs
        for value, integer in zip(row, integers, strict=True):
            assert abs(value - integer * scale) <= 0.5001 * scale
    worst = ((matrix.dequantize() - weight).abs() / matrix.scale[:, None]).max()
    assert 0.4 < worst <= 0.5001


def naive_4(row: list[list[float]], scale: float, multipliers: list[int]) -> list[list[int]]:
    return [[max(-8, min(7, round(value / (scale * g)))) for value in group] for group, g in zip(row, multipliers, strict=True)]


@pytest.mark.parametrize("search", [False, True])
def test_four_bits_round_to_the_nearest_level_of_their_group(search: bool) -> None:
    weight = normal(6, 48) * torch.logspace(-5, 5, 6)[:, None]
    weight[2, 5] *= 40  # an outlier: its group and its row differ from the rest
    matrix = round_4(weight, 16, search=search)
    assert matrix.multipliers is not None and matrix.multipliers.shape == (6, 3) and matrix.group == 16
    for row, integers, scale, multipliers in zip(
        weight.unflatten(1, (3, 16)).tolist(),
        matrix.integers.unflatten(1, (3, 16)).tolist(),
        matrix.scale.tolist(),
        matrix.multipliers.tolist(),
        strict=True,
    ):
        assert integers == naive_4(row, scale, multipliers)


def test_plain_scales_clip_nothing() -> None:
    weight = normal(50, 64)
    matrix = round_4(weight, 16, search=False)
    assert matrix.multipliers is not None
    step = (matrix.multipliers * matrix.scale[:, None]).repeat_interleave(16, 1)
    assert ((weight - matrix.dequantize()).abs() <= 0.5001 * step).all()


def test_search_is_never_worse_and_mostly_better() -> None:
    weight = normal(64, 256) * normal(64, 1, seed=1).exp()
    for make in (lambda s: round_4(weight, 32, search=s), lambda s: round_8(weight, search=s)):
        plain, searched = error(weight, make(False)), error(weight, make(True))
        assert (searched <= plain * (1 + 1e-5)).all()
    plain, searched = (error(weight, round_4(weight, 32, search=s)).sum() for s in (False, True))
    assert searched < 0.85 * plain


def test_searched_scales_come_near_the_best_of_all() -> None:
    """Every scale of two octaves and every multiplier, tried by a naive twin."""
    weight = normal(4, 32)
    found = error(weight, round_4(weight, 8, search=True))
    best = torch.full((4,), torch.inf, dtype=torch.float64)
    for exponent in range(-12, 3):
        for mantissa in range(8, 16):
            groups = []
            for g in range(1, 16):
                step = mantissa * 2.0**exponent * g
                w = weight.unflatten(1, (4, 8)).double()
                groups.append(((w / step).round().clamp(-8, 7) * step - w).square().sum(-1))
            best = torch.minimum(best, torch.stack(groups).amin(0).sum(-1))
    assert (found >= best * (1 - 1e-5)).all()
    assert found.sum() < 1.1 * best.sum()


def spiky(seed: int, rows: int, groups: int, exponent: int, outlier: float) -> Tensor:
    spikes = torch.where(normal(rows, groups * 8, seed=seed + 1) > 2, outlier, 1.0)
    return normal(rows, groups * 8, seed=seed) * 2.0**exponent * spikes


MATRICES = st.builds(
    spiky, st.integers(0, 1000), st.integers(1, 4), st.integers(1, 5), st.integers(-60, 60), st.sampled_from([0.0, 1.0, 100.0])
)


@settings(max_examples=60, deadline=None)
@given(MATRICES, st.booleans())
def test_one_set_of_integers_serves_both_engines_exactly(weight: Tensor, search: bool) -> None:
    matrix = round_4(weight, 8, search=search)
    assert matrix.multipliers is not None
    assert matrix.integers.min() >= -8 and matrix.integers.max() <= 7
    assert matrix.multipliers.min() >= 1 and matrix.multipliers.max() <= 15
    mantissa, _ = torch.frexp(matrix.scale)
    assert torch.equal(mantissa * 16, (mantissa * 16).round())  # at most four significant bits
    group_scales = matrix.multipliers * matrix.scale[:, None]
    assert torch.equal(group_scales.bfloat16().float(), group_scales)
    wide = matrix.integers.int().unflatten(1, (-1, 8)) * matrix.multipliers.int()[..., None]
    assert torch.equal(matrix.expanded().int(), wide.flatten(1)) and wide.abs().max() <= 120
    by_groups = matrix.integers.unflatten(1, (-1, 8)).float() * group_scales[..., None]  # as XNNPACK has it
    assert torch.equal(matrix.dequantize(), by_groups.flatten(1))


@pytest.mark.parametrize("search", [False, True])
def test_zeros_stay_zero(search: bool) -> None:
    weight = torch.zeros(3, 16)
    weight[1, 8:] = normal(8)
    for matrix in (round_4(weight, 8, search=search), round_8(weight, search=search)):
        assert matrix.scale[0] == matrix.scale[2] == 1.0
        assert not matrix.dequantize()[[0, 2]].any() and not matrix.dequantize()[1, :8].any()
        assert matrix.multipliers is None or matrix.multipliers[:, 0].tolist() == [1, 1, 1]


def test_stacked_experts_are_quantized_row_by_row() -> None:
    weight = normal(3, 5, 32)
    for make in (lambda w: round_4(w, 16, search=True), lambda w: round_8(w, search=True)):
        stacked, each = make(weight), [make(w) for w in weight]
        assert torch.equal(stacked.integers, torch.stack([m.integers for m in each]))
        assert torch.equal(stacked.dequantize(), torch.stack([m.dequantize() for m in each]))
        assert stacked.group == each[0].group


def test_chunks_threads_and_repetition_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, threads = normal(40, 64), torch.get_num_threads()
    whole = round_4(weight, 16, search=True)
    monkeypatch.setattr("dgemma.quantize.rounding.CHUNK", 3 * 64)
    torch.set_num_threads(2)
    try:
        pieces = round_4(weight, 16, search=True)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole.integers, pieces.integers) and torch.equal(whole.scale, pieces.scale)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 100), st.booleans())
def test_packing_keeps_every_value(count: int, seed: int, signed: bool) -> None:
    low, high = (-8, 8) if signed else (0, 16)
    values = torch.randint(low, high, (2, 3, count), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    packed = pack(values)
    assert packed.shape == (2, 3, -(-count // 2)) and packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, count, signed=signed), values)
    assert int(packed[0, 0, 0]) & 15 == int(values[0, 0, 0]) % 16  # the first value is in the low half


def test_gptq_lowers_the_error_of_outputs_and_keeps_scales() -> None:
    mixed = normal(64, 64, seed=3)
    inputs = normal(512, 64, seed=1) @ (mixed * torch.logspace(0, -1, 64))
    weight = normal(24, 64, seed=2)
    hessian = inputs.t() @ inputs / len(inputs)
    for start, levels in ((round_4(weight, 16, search=True), LEVELS_4), (round_8(weight, search=False), (-127, 127))):
        made = gptq(weight, hessian, start, levels=levels)
        assert torch.equal(made.scale, start.scale) and made.integers.min() >= levels[0] and made.integers.max() <= levels[1]
        before, after = ((inputs @ (m.dequantize() - weight).t()).square().sum() for m in (start, made))
        assert after < 0.5 * before


def test_gptq_of_unrelated_inputs_is_round_to_nearest() -> None:
    weight = normal(8, 32)
    start = round_4(weight, 16, search=True)
    assert torch.equal(gptq(weight, torch.eye(32), start, levels=LEVELS_4).integers, start.integers)
    assert torch.equal(gptq(weight, torch.zeros(32, 32), start, levels=LEVELS_4).integers, start.integers)


def test_rotation_spreads_outliers_and_keeps_the_function() -> None:
    weight, x = normal(6, 64), normal(5, 64, seed=1)
    x[:, 3] *= 100
    block = hadamard(32)
    assert torch.allclose(block @ block.t(), torch.eye(32), atol=1e-6) and torch.equal(block, block.t())
    rotated = rotate_inputs(x, 32)
    assert torch.allclose(rotated @ rotate_inputs(weight, 32).t(), x @ weight.t(), rtol=1e-4, atol=1e-3)
    assert rotated.abs().amax() < 0.25 * x.abs().amax()


def test_activations_follow_the_rule_of_the_engines() -> None:
    x = torch.stack([normal(50) * 1e-3, normal(50) * 1e3, torch.zeros(50)])
    integers, inverse = quantize_tokens(x)
    for row, got, scale in zip(x.tolist(), integers.tolist(), inverse[:, 0].tolist(), strict=True):
        step = max(map(abs, row)) / 127
        assert all(abs(a - (b / step if step else 0.0)) <= 0.5001 for a, b in zip(got, row, strict=True))
        assert step == 0 or abs(scale * step - 1) < 1e-6
    assert integers[:2].abs().amax(1).tolist() == [127, 127] and not integers[2].any()


def damaged(value: float) -> Callable[[], object]:
    weight = normal(4, 16)
    weight[2, 3] = value
    return lambda: quantize_matrix("layers.0.mlp.up_proj.weight", weight, W4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_named(value: float) -> None:
    with pytest.raises(CheckpointError, match=r"tensor layers\.0\.mlp\.up_proj\.weight holds NaN or infinity"):
        damaged(value)()


def test_a_group_that_does_not_divide_is_named_with_those_that_would() -> None:
    with pytest.raises(UsageError, match=r"layers\.0\.mlp\.up_proj\.weight: groups of 128 .* 48 inputs; .*16"):
        quantize_matrix("layers.0.mlp.up_proj.weight", normal(4, 48), find("w4"))


def test_a_group_is_halved_where_it_does_not_divide() -> None:
    """The integers are those of a recipe with the smaller group."""
    weight, name = normal(4, 192), "layers.0.mlp.up_proj.weight"
    found, small = quantize_matrix(name, weight, find("w4")), quantize_matrix(name, weight, replace(find("w4"), group=64))
    assert found is not None and small is not None and found.group == 64
    assert torch.equal(found.dequantize(), small.dequantize())


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


def test_gptq_without_calibration_is_refused() -> None:
    with pytest.raises(UsageError, match="--calibration"):
        quantize(micro.model(), replace(W4, methods={"attention": "gptq"}))


def naive_forward(matrix: QuantizedMatrix, row: list[float]) -> list[float]:
    """One token through one matrix in Python's own numbers, with its own activation rule."""
    if matrix.rotation:
        row = rotate_inputs(torch.tensor(row), matrix.rotation).tolist()
    step = max(map(abs, row)) / 127
    integers = [round(v / step) for v in row]
    rows = zip(matrix.expanded().tolist(), matrix.scale.tolist(), strict=True)
    return [sum(a * b for a, b in zip(integers, weights, strict=True)) * step * scale for weights, scale in rows]


@pytest.mark.parametrize("name", ["layers.0.mlp.down_proj.weight", "layers.1.self_attn.q_proj.weight"])
def test_fake_quantized_products_equal_a_naive_twin(name: str) -> None:
    model = micro.model()
    matrices = quantize(model, replace(W4, rotation=16))
    assert (matrices[name].rotation == 16) == ("down" in name)
    made = fake_quantize(model, matrices).get_submodule(name.removesuffix(".weight"))
    x = normal(5, model.get_parameter(name).shape[1], seed=4)
    want = torch.tensor([naive_forward(matrices[name], row) for row in x.tolist()])
    assert torch.allclose(made(x), want, rtol=1e-5, atol=1e-5)
    flipped = replace(matrices[name], integers=matrices[name].integers.flip(0))  # a wrong matrix must show
    assert not torch.allclose(torch.tensor([naive_forward(flipped, row) for row in x.tolist()]), want, rtol=1e-2)


@pytest.mark.parametrize("config", [micro.CONFIG, micro.MOE_CONFIG])
@torch.no_grad()
def test_a_fake_quantized_model_is_near_at_8_bits_and_farther_at_4(config: object) -> None:
    model = micro.model(config)  # type: ignore[arg-type]
    before = {name: p.clone() for name, p in model.named_parameters()}
    canvas, soft = torch.arange(micro.N)[None], torch.zeros(1, micro.N, 32)
    want = model.denoise(canvas, soft, None, 0)
    far = []
    for recipe in (find("w8"), W4):
        logits = fake_quantize(model, quantize(model, recipe)).denoise(canvas, soft, None, 0)
        far.append(float((logits - want).norm() / want.norm()))
    assert 0 < far[0] < 0.1 < far[1] < 0.9 and far[1] > 4 * far[0]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(fake_quantize(model, {}).denoise(canvas, soft, None, 0), want)


def test_the_fake_quantized_table_serves_lookup_head_and_soft_embedding() -> None:
    model = micro.model()
    for recipe in (find("w8"), W4):
        matrix = quantize(model, recipe)["embed_tokens.weight"]
        table = fake_quantize(model, {"embed_tokens.weight": matrix}).embed_tokens
        ids = torch.tensor([[3, 7, 299]])
        assert torch.equal(table(ids), matrix.dequantize()[ids])
        probabilities = normal(1, 4, micro.VOCAB).softmax(-1)
        assert torch.allclose(table.expected(probabilities), probabilities @ matrix.dequantize(), rtol=1e-4, atol=1e-4)
