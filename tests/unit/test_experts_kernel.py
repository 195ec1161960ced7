"""The kernel for experts: equal to its naive twin, and every variant to the portable one bit for bit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import native_experts
import numpy as np
import numpy.typing as npt
import pytest
import torch
from matrices import four_bits, inputs

from dgemma.benchmarks.bench.experts import random_experts
from dgemma.quantize.expert_layout import lay_out, put_back
from dgemma.quantize.fake_quant import FakeQuantExperts

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="builds the kernel, which takes a C++ compiler"
)
Array = npt.NDArray[Any]


def error(found: Array, wanted: Array) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


SHAPES = [  # bits, experts, hidden, width, group, rows, chosen
    (8, 5, 64, 32, 0, 7, 2), (8, 3, 50, 21, 0, 1, 1), (8, 4, 30, 44, 0, 40, 4), (4, 5, 64, 32, 32, 7, 2),
    (4, 3, 192, 192, 64, 29, 2), (4, 2, 40, 24, 8, 256, 2), (4, 2, 128, 704, 64, 5, 1), (8, 2, 44, 704, 0, 26, 1),
    (4, 2, 32, 2112, 32, 3, 1),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_its_naive_twin(shape: tuple[int, ...]) -> None:
    bits, number, hidden, width, group, count, chosen = shape
    pair = native_experts.matrices(bits, number, hidden, width, group)
    given = native_experts.rows(count, hidden, number, chosen)
    portable = native_experts.run(*pair, *given, kernel="portable")
    # Two roundings of a value that is halfway may differ by one of 127 steps.
    assert error(portable, native_experts.twin(*pair, *given)) < 4e-3
    for kernel in native_experts.kernels():
        for threads in (1, 2):
            assert native_experts.run(*pair, *given, kernel=kernel, threads=threads).tobytes() == portable.tobytes(), kernel


@pytest.mark.parametrize("group", [8, 24, 64, 128])
def test_few_rows_are_multiplied_by_four_bits_as_they_lie(group: int) -> None:
    """With one to six rows for each expert, on either side of where kernels begin to write 8-bit integers down."""
    hidden, width = 3 * group, 2 * group
    pair = native_experts.matrices(4, 2, hidden, width, group)
    for count in range(1, 7):
        x, ids, weights = native_experts.rows(2 * count, hidden, 2, 1)
        ids[:count], ids[count:] = 0, 1
        portable = native_experts.run(*pair, x, ids, weights, kernel="portable")
        assert error(portable, native_experts.twin(*pair, x, ids, weights)) < 4e-3
        for kernel in native_experts.kernels():
            assert native_experts.run(*pair, x, ids, weights, kernel=kernel).tobytes() == portable.tobytes(), (kernel, count)


def test_the_rule_is_the_one_of_all_products() -> None:
    """Against eager torch; one expert at a time, so that sums have one order."""
    pair = native_experts.matrices(8, 3, 96, 48)
    x, ids, weights = native_experts.rows(33, 96, 3, 1)
    found = native_experts.run(*pair, x, ids, weights)
    simulated = FakeQuantExperts(*pair)(*map(torch.from_numpy, (x, weights, ids))).numpy()
    assert error(found, simulated) < 1e-3
    x[:, 0] *= 1.01  # another scale for most rows
    assert error(native_experts.run(*pair, x, ids, weights), simulated) > 5e-3


@pytest.mark.parametrize("dims", [(3, 2816, 704), (2, 64, 32), (2, 36, 21)], ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_timed_has_the_sizes_of_real_experts(bits: int, dims: tuple[int, int, int]) -> None:
    count, hidden, width = dims
    made = random_experts(bits, count, hidden, width)
    if bits == 4 and (hidden % 32 or width % 32):
        return  # no recipe has 4 bits for such a shape
    group = {"gate_up": made.groups[0], "down": made.groups[1]}
    if bits == 8:
        pair = native_experts.matrices(8, count, hidden, width)
    else:
        pair = (
            four_bits(count, 2 * width, hidden, group=group["gate_up"]),
            four_bits(count, hidden, width, group=group["down"]),
        )
    sizes, arrays = native_experts.flat(*pair)
    assert [made.experts, made.hidden, made.width, made.bits, *made.groups] == sizes
    assert [a.shape for a in made.arrays] == [a.shape for a in arrays]
    assert [a.dtype for a in made.arrays] == [a.dtype for a in arrays]


def test_controls() -> None:
    pair, (x, ids, weights) = native_experts.matrices(4), native_experts.rows(16, 64, 5, 2)
    wanted = native_experts.twin(*pair, x, ids, weights)
    assert error(native_experts.run(*pair, x, ids, weights), wanted) < 4e-3
    assert error(native_experts.run(*pair, x, (ids + 1) % 5, weights), wanted) > 0.1
    assert error(native_experts.run(*pair, x, ids, weights * 1.1), wanted) > 0.05
    swapped = replace(pair[1], integers=pair[1].integers.flip(0))
    assert error(native_experts.run(pair[0], swapped, x, ids, weights), wanted) > 0.1


@pytest.mark.parametrize("bits", [8, 4])
def test_some_experts_have_no_rows_and_one_has_all(bits: int) -> None:
    pair, (x, ids, weights) = native_experts.matrices(bits), native_experts.rows(50, 64, 5, 2)
    for chosen in (np.full_like(ids[:, :1], 3), np.where(ids == 2, 4, ids)[:, :1], ids[:, :1] * 0):
        wanted = native_experts.twin(*pair, x, chosen, weights[:, :1])
        assert error(native_experts.run(*pair, x, chosen, weights[:, :1]), wanted) < 4e-3


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_and_their_company_do_not_matter(bits: int) -> None:
    pair, (x, ids, weights) = native_experts.matrices(bits), native_experts.rows(60, 64, 5, 3)
    whole = native_experts.run(*pair, x, ids, weights)
    order = np.random.default_rng(1).permutation(60)
    assert (native_experts.run(*pair, x[order], ids[order], weights[order]) == whole[order]).all()
    assert (native_experts.run(*pair, x[9:10], ids[9:10], weights[9:10]) == whole[9:10]).all()
    assert (native_experts.run(*pair, x, ids[:, ::-1], weights[:, ::-1]) == whole).all()


def test_extreme_rows() -> None:
    pair, (x, ids, weights) = native_experts.matrices(8), native_experts.rows(6, 64, 5, 2)
    x[0], x[1, 3], x[2, 5], x[3] = 0, np.nan, -np.inf, x[3] * 1e-36
    for kernel in native_experts.kernels():
        found = native_experts.run(*pair, x, ids, weights, kernel=kernel)
        assert not found[0].any() and np.isnan(found[1:3]).all() and np.isfinite(found[3:]).all()
        assert found.tobytes() == native_experts.run(*pair, x, ids, weights, kernel="portable").tobytes()


@pytest.mark.parametrize("bits", [8, 4])
def test_the_largest_integers_do_not_saturate(bits: int) -> None:
    """Pairs of the largest products exceed 16 bits with a sign to spare."""
    pair = native_experts.matrices(bits, 2, 64, 32)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    for matrix in pair:
        matrix.integers.copy_(torch.where(inputs(*matrix.integers.shape[:2], 1) < 0, low, high))
        if matrix.multipliers is not None:
            matrix.multipliers.fill_(15)
    x = np.sign(inputs(5, 64).numpy()) + np.float32(0.0)
    x[0], x[1] = 1, -1
    ids, weights = np.array([[0], [1], [0], [1], [0]]), np.ones((5, 1), np.float32)
    wanted = native_experts.twin(*pair, x, ids, weights)
    for kernel in native_experts.kernels():
        assert error(native_experts.run(*pair, x, ids, weights, kernel=kernel), wanted) < 4e-3


def test_what_cannot_be_run_is_said() -> None:
    pair, (x, ids, weights) = native_experts.matrices(8), native_experts.rows(3, 64, 5, 2)
    with pytest.raises(ValueError, match="does not exist"):
        native_experts.run(*pair, x, ids + 4, weights)
    with pytest.raises(ValueError, match="kernel"):
        native_experts.run(*pair, x, ids, weights, kernel="none")
    assert native_experts.kernels()[-1] == "portable"
    assert native_experts.run(*pair, x[:0], ids[:0], weights[:0]).shape == (0, 64)


def test_groups_that_the_kernel_does_not_take_become_eight_bits() -> None:
    pair = native_experts.matrices(4, 3, 36, 36, group=12)
    given = native_experts.rows(9, 36, 3, 2)
    assert native_experts.flat(*pair)[0][3:] == [8, 0, 0]
    assert error(native_experts.run(*pair, *given), native_experts.twin(*pair, *given)) < 4e-3


@pytest.mark.parametrize(("bits", "hidden", "width", "group"), [(8, 50, 21, 0), (4, 40, 24, 8), (4, 192, 64, 64)])
def test_the_layout_can_be_put_back(bits: int, hidden: int, width: int, group: int) -> None:
    pair = native_experts.matrices(bits, 3, hidden, width, group)
    for given, found in zip(pair, put_back(*lay_out(*pair), hidden=hidden, width=width), strict=True):
        assert torch.equal(given.integers, found.integers) and torch.equal(given.scale, found.scale)
        assert found.group == given.group and torch.equal(given.expanded(), found.expanded())
