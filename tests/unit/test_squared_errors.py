"""Rounding with search gives the same integers by the compiled kernel, by torch, and by a loop over all candidates."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dgemma.core import compiler
from dgemma.quantize import rounding, squared_errors
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.rounding import DEPTH_4, LEVELS_4, LEVELS_8, MULTIPLIERS, SCALES_4, round_4, round_8
from dgemma.quantize.squared_errors import by_torch, rounded

GROUPS = (1, 7, 8, 32, 64, 100, 128, 704)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More of them add in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def kernel() -> squared_errors.Errors:
    found = squared_errors.kernel()
    if found is None:
        known = platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() != "DEFAULT"
        assert not (known and compiler.find()), "bits are no longer those of torch's sums"
        pytest.skip("no C++ compiler, or torch adds in an order of its own on this processor")
    return found


def matrices(rows: int, inputs: int) -> dict[str, Tensor]:
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows + inputs))
    return {
        "normal": x,
        "bfloat16": x.bfloat16(),
        "transposed": torch.randn(inputs, rows, generator=torch.Generator().manual_seed(1)).t(),
        "zeros": torch.zeros(rows, inputs),
        "constant": torch.full((rows, inputs), -0.37),
        "ties": (x * 8).round() / 2,
        "outliers": torch.where(x > 2, x * 50, x),
        "some rows huge": x * torch.where(torch.arange(rows) % 2 == 0, 3e37, 1.0)[:, None],
        "denormal": x * 1e-42,
    }


def naive(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Scale and multipliers of `round_4`, candidate by candidate."""
    w = weight.float().contiguous().unflatten(1, (-1, group))
    whole = torch.maximum(w.amax(2) / LEVELS_4[1], w.amin(2) / LEVELS_4[0])
    index = rounding._index_of(whole.amax(1) / MULTIPLIERS)
    best = torch.full(index.shape, torch.inf)
    best_scale, best_multipliers = torch.ones(index.shape), torch.ones_like(whole)
    for offset in SCALES_4:
        scale = rounding._scale_at(index + offset)
        fitting = (whole / scale[:, None]).ceil().clamp(1, MULTIPLIERS)
        error, multipliers = torch.full_like(whole, torch.inf), fitting
        for less in range(DEPTH_4):
            candidate = (fitting - less).clamp(min=1)
            step = (candidate * scale[:, None])[:, :, None]
            its_error = (rounded(w, step, LEVELS_4) * step - w).square().sum(2)
            multipliers = torch.where(its_error < error, candidate, multipliers)
            error = torch.minimum(error, its_error)
        better = error.sum(1) < best
        best, best_scale = torch.where(better, error.sum(1), best), torch.where(better, scale, best_scale)
        best_multipliers = torch.where(better[:, None], multipliers, best_multipliers)
    zero = whole <= 0
    return best_scale.masked_fill(zero.all(1), 1), best_multipliers.masked_fill(zero, 1).to(torch.int8)


def equal(a: QuantizedMatrix, b: QuantizedMatrix) -> bool:
    multipliers = [m.multipliers if m.multipliers is not None else torch.zeros(0) for m in (a, b)]
    return torch.equal(a.integers, b.integers) and torch.equal(a.scale, b.scale) and torch.equal(*multipliers)


@pytest.mark.parametrize("group", GROUPS)
def test_torch_finds_what_the_loop_over_candidates_finds(group: int) -> None:
    for name, weight in matrices(6, 5 * group).items():
        found, (scale, multipliers) = round_4(weight, group, search=True), naive(weight, group)
        assert torch.equal(found.scale, scale), name
        assert torch.equal(found.multipliers, multipliers), name  # type: ignore[arg-type]


@pytest.mark.parametrize("group", GROUPS)
def test_kernel_gives_the_same_integers(group: int, kernel: squared_errors.Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, weight in matrices(6, 5 * group).items():
        by_bits = []
        for worth in (0, weight.numel() + 1):
            monkeypatch.setattr(squared_errors, "WORTH", worth)
            by_bits.append((round_4(weight, group, search=True), round_8(weight, search=True)))
        assert all(equal(*pair) for pair in zip(*by_bits, strict=True)), name


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 32, 63, 128, 511, 512, 513, 8191, 8192, 140_001])
def test_kernel_adds_in_torchs_order(size: int, kernel: squared_errors.Errors) -> None:
    numbers = torch.Generator().manual_seed(size)
    w, steps = torch.randn(3, size, generator=numbers), 0.01 + torch.rand(3, 9, generator=numbers)
    steps[:, 4] = steps[:, 1]  # found again, not computed again
    for levels in (LEVELS_4, LEVELS_8):
        assert torch.equal(kernel(w, steps, levels), by_torch(w, steps, levels))


def test_what_the_kernel_does_not_take_goes_to_torch(kernel: squared_errors.Errors) -> None:
    w, steps = torch.randn(2, 8), 0.1 + torch.rand(2, 33)
    assert torch.equal(kernel(w, steps, LEVELS_4), by_torch(w, steps, LEVELS_4))


def test_other_bits_than_torchs_are_not_used() -> None:
    assert squared_errors._agrees(by_torch)
    assert not squared_errors._agrees(lambda w, steps, levels: by_torch(w, steps, levels) * (1 + 2**-23))
    assert not squared_errors._agrees(lambda w, steps, levels: by_torch(w.flip(1), steps, levels))


@pytest.mark.parametrize(
    ("name", "value"), [("CXX", "false"), ("CXX", "no-such-compiler"), ("DGEMMA_NATIVE", "0")], ids=["fails", "missing", "off"]
)
def test_without_a_compiler_torch_rounds(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(squared_errors, "kernel", squared_errors.kernel.__wrapped__)
    assert squared_errors.kernel() is None
    assert squared_errors.best(1 << 30) is by_torch


def test_small_models_do_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled() -> None:
        raise AssertionError

    monkeypatch.setattr(squared_errors, "kernel", compiled)
    assert squared_errors.best(1000) is by_torch
