"""One layer of experts as both engines run it, through the native library, with random weights: its time alone is wanted.

It runs where a bundle does: neither torch nor a bundle's files are needed, only the compiled library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.runtime.native import build

Array = npt.NDArray[Any]
GROUPS = (128, 64, 32)  # inputs to a multiplier at 4 bits: recipes take the largest that divides a matrix's inputs
_PANEL, _PAD = 16, {"hidden": 8, "width": 16}  # outputs of a panel; what inputs are filled up to (quantize/expert_layout.py)


class Layer(ctypes.Structure):
    """`dg_experts` of runtime/native/experts/experts.h."""

    _fields_ = (
        ("experts", ctypes.c_int32),
        ("hidden", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("gate_up_group", ctypes.c_int32),
        ("down_group", ctypes.c_int32),
        ("gate_up", ctypes.c_void_p),
        ("gate_up_multipliers", ctypes.c_void_p),
        ("gate_up_scale", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
        ("down_multipliers", ctypes.c_void_p),
        ("down_scale", ctypes.c_void_p),
    )


@dataclass(frozen=True, kw_only=True)
class RandomExperts:
    """A layer of `experts` experts, [hidden → 2·width → hidden], at 4 or 8 bits.

    Args:
        arrays: weight, multipliers and scale of gate and up, then of down, in the library's layout.
        groups: inputs to a multiplier of the two; 0 at 8 bits.
    """

    experts: int
    hidden: int
    width: int
    bits: int
    groups: tuple[int, int]
    arrays: tuple[Array, ...]

    @property
    def bytes(self) -> int:
        return sum(a.nbytes for a in self.arrays)

    @property
    def layer(self) -> Layer:
        """Points into `arrays`, which this object keeps alive."""
        sizes = (self.experts, self.hidden, self.width, self.bits, *self.groups)
        return Layer(*sizes, *(a.ctypes.data for a in self.arrays))


def random_experts(bits: int, experts: int, hidden: int, width: int) -> RandomExperts:
    """One expert's random integers, as often as there are experts."""
    groups = tuple(_group(inputs) if bits == 4 else 0 for inputs in (hidden, width))
    padded = [_up(hidden, _PAD["hidden"]), _up(width, _PAD["width"])]
    panels = [2 * (_up(width, _PANEL) // _PANEL), 2 * (_up(hidden, 2 * _PANEL) // (2 * _PANEL))]
    rng = np.random.default_rng(0)
    arrays: list[Array] = []
    for count, inputs, group in zip(panels, padded, groups, strict=True):
        blocks = rng.integers(0, 256, (1, count, inputs * bits // 32, 64), np.uint8)
        multipliers = rng.integers(1, 16, (1, count, -(-inputs // group) if group else 0, _PANEL), np.uint8)
        scale = rng.uniform(1e-3, 2e-3, (1, count, _PANEL)).astype(np.float32)
        arrays += [np.repeat(a, experts, 0) for a in (blocks, multipliers, scale)]
    return RandomExperts(
        experts=experts, hidden=hidden, width=width, bits=bits, groups=(groups[0], groups[1]), arrays=tuple(arrays)
    )


def chosen_evenly(rows: int, hidden: int, experts: int, chosen: int) -> tuple[Array, Array, Array]:
    """Random rows, float32 [R, D]; experts for them, int64 [R, K]; weights that add up to 1, float32 [R, K]."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(experts)[:chosen] for _ in range(rows)])
    return rng.standard_normal((rows, hidden)).astype(np.float32), ids, np.full((rows, chosen), 1 / chosen, np.float32)


@cache
def library() -> ctypes.CDLL:
    """The library, built if it is not yet there; raises `build.Unavailable` where it cannot be."""
    loaded = ctypes.CDLL(str(build.experts()))
    loaded.dg_experts_kernel.restype = loaded.dg_experts_run_threads.restype = ctypes.c_char_p
    return loaded


def kernels() -> list[str]:
    """What this processor runs, best first."""
    found: list[str] = []
    while name := library().dg_experts_kernel(len(found)):
        found.append(name.decode())
    return found


def run(layer: Layer, x: Array, ids: Array, weights: Array, *, kernel: str | None = None, threads: int = 1) -> Array:
    """x float32 [R, D], ids int64 [R, K], weights float32 [R, K] → [R, D]; raises ValueError with what the library says."""
    out = np.full_like(x, 7.0)
    given = [np.ascontiguousarray(a) for a in (x, ids, weights)]
    wrong = library().dg_experts_run_threads(
        ctypes.byref(layer),
        *(a.ctypes.data_as(ctypes.c_void_p) for a in given),
        ctypes.c_int64(len(x)),
        ctypes.c_int32(ids.shape[1]),
        out.ctypes.data_as(ctypes.c_void_p),
        kernel and kernel.encode(),
        ctypes.c_int(threads),
    )
    if wrong:
        raise ValueError(wrong.decode())
    return out


def layer_call(
    *, bits: int, experts: int, chosen: int, hidden: int, width: int, rows: int, threads: int
) -> tuple[Callable[[], object], int]:
    """A call of one layer over `rows` rows whose experts are chosen evenly, and its operations; raises `build.Unavailable`."""
    library()
    made = random_experts(bits, experts, hidden, width)
    given = chosen_evenly(rows, hidden, experts, chosen)
    return lambda: run(made.layer, *given, threads=threads), 2 * rows * chosen * 3 * hidden * width


def _group(inputs: int) -> int:
    return next((size for size in GROUPS if inputs % size == 0), GROUPS[-1])


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
