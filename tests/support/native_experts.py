"""The kernel for experts by itself, through ctypes, and its naive twin: every expert computed, those not chosen masked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matrices import four_bits

from dgemma.benchmarks.bench import experts
from dgemma.benchmarks.bench.experts import kernels
from dgemma.quantize.activations import quantize_tokens
from dgemma.quantize.expert_layout import lay_out
from dgemma.quantize.matrix import QuantizedMatrix

__all__ = ["flat", "kernels", "matrices", "rows", "run", "twin"]
Array = npt.NDArray[Any]
Pair = tuple[QuantizedMatrix, QuantizedMatrix]


def eight_bits(*shape: int, seed: int) -> QuantizedMatrix:
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
    return QuantizedMatrix(bits=8, integers=integers, scale=torch.rand(shape[:-1], generator=generator) * 1e-3 + 1e-3)


def matrices(bits: int, count: int = 5, hidden: int = 64, width: int = 32, group: int = 32) -> Pair:
    """Random gate-and-up and down matrices."""
    if bits == 8:
        return eight_bits(count, 2 * width, hidden, seed=1), eight_bits(count, hidden, width, seed=2)
    return four_bits(count, 2 * width, hidden, group=group, seed=1), four_bits(count, hidden, width, group=group, seed=2)


def rows(count: int, hidden: int, number: int, chosen: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Rows of very different sizes, experts chosen for them, and weights that add up to 1."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, hidden)).astype(np.float32) * rng.lognormal(0, 2, (count, 1)).astype(np.float32)
    ids = np.stack([rng.permutation(number)[:chosen] for _ in range(count)])
    weights = rng.random((count, chosen)).astype(np.float32)
    return x, ids, weights / weights.sum(1, keepdims=True)


def flat(gate_up: QuantizedMatrix, down: QuantizedMatrix) -> tuple[list[int], list[Array]]:
    """Sizes and arrays in the order of `dg_experts`."""
    first, second = lay_out(gate_up, down)
    sizes = [*down.integers.shape, 4 if first.group else 8, first.group, second.group]
    return sizes, [t.numpy() for s in (first, second) for t in (s.weight, s.multipliers, s.scale)]


def run(
    gate_up: QuantizedMatrix,
    down: QuantizedMatrix,
    x: Array,
    ids: Array,
    weights: Array,
    *,
    kernel: str | None = None,
    threads: int = 1,
) -> Array:
    """x float32 [R, D], ids int64 [R, K], weights float32 [R, K] → [R, D]; raises ValueError with what the library says."""
    sizes, arrays = flat(gate_up, down)
    layer = experts.Layer(*sizes, *(a.ctypes.data for a in arrays))
    return experts.run(layer, x, ids, weights, kernel=kernel, threads=threads)


def twin(gate_up: QuantizedMatrix, down: QuantizedMatrix, x: Array, ids: Array, weights: Array) -> Array:
    """The same in numpy, in float64 where floats are added."""
    dense = np.zeros((len(x), len(down.integers)))
    for row, (chosen, its) in enumerate(zip(ids, weights, strict=True)):
        np.add.at(dense[row], chosen, its)
    total = np.zeros(x.shape)
    for e in range(dense.shape[1]):
        gate, up = np.split(_product(gate_up, e, x), 2, axis=1)
        hidden = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up
        total += dense[:, e, None] * _product(down, e, hidden.astype(np.float32))
    return total


def _product(matrix: QuantizedMatrix, expert: int, x: Array) -> Array:
    integers, inverse = quantize_tokens(torch.from_numpy(x))
    weight = matrix.dequantize()[expert].double()
    return np.asarray((integers.double() / inverse.double()) @ weight.t())
