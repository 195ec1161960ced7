"""The kernel for attention by itself, through ctypes, and its naive twin in float64."""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.runtime.native import build

Array = npt.NDArray[Any]
_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)
_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Layer(ctypes.Structure):
    """`dg_attention` of runtime/native/attention/attention.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "slots")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "dim")),
        *((name, ctypes.c_void_p) for name in ("q", "old_keys", "old_values", "keys", "values", "bias")),
        ("bias_rows", ctypes.c_int64),
    )


class _Parallel(ctypes.Structure):
    _fields_ = (("run", _RUN), ("self", ctypes.c_void_p))


@cache
def library() -> ctypes.CDLL:
    found = ctypes.CDLL(str(build.experts()))
    found.dg_attend.restype = found.dg_attention_kernel.restype = ctypes.c_char_p
    found.dg_attend.argtypes = (ctypes.POINTER(_Layer), ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(_Parallel))
    found.dg_attention_kernel.argtypes = (ctypes.c_int,)
    return found


def kernels() -> list[str]:
    """Those that this processor runs, best first."""
    found = []
    for index in count():
        name = library().dg_attention_kernel(index)
        if name is None:
            return found
        found.append(name.decode())
    raise AssertionError


def inputs(
    rows: int, slots: int, heads: int, kv_heads: int, dim: int, *, seed: int = 0, bias_rows: int | None = None
) -> list[Array]:
    """q, keys and values of the prefix and of the rows, and a bias that hides a fifth of the keys, never a row's own."""
    rng = np.random.default_rng(seed)
    shapes = [(rows, heads, dim), *[(slots, kv_heads, dim)] * 2, *[(rows, kv_heads, dim)] * 2]
    made = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    made[0] *= 4 * dim**-0.5  # so that scores are 4 apart
    bias = np.where(rng.random((bias_rows or rows, slots + rows)) < 0.2, np.float32(-1e30), np.float32(0))
    bias[:, slots:] = 0
    return [*made, bias.astype(np.float32)]


def run(arrays: list[Array], *, kernel: str | None = None, backwards: bool = False) -> Array:
    """[M, H, d]; `backwards` has the tasks done last one first. Raises ValueError with what the library says."""
    q, old, *_, bias = arrays
    (rows, heads, dim), (slots, kv_heads, _) = q.shape, old.shape
    layer = _Layer(rows, slots, heads, kv_heads, dim, *(a.ctypes.data for a in arrays), len(bias))
    out = np.full_like(q, np.nan)

    @_RUN
    def last_first(_: Any, task: int, context: int, number: int) -> None:
        for i in reversed(range(number)):
            _TASK(task)(context, i)

    parallel = ctypes.byref(_Parallel(last_first, None)) if backwards else None
    wrong = library().dg_attend(ctypes.byref(layer), out.ctypes.data, kernel.encode() if kernel else None, parallel)
    if wrong is not None:
        raise ValueError(wrong.decode())
    return out


def twin(arrays: list[Array]) -> Array:
    """The same in numpy."""
    q, old_keys, old_values, keys, values, bias = (a.astype(np.float64) for a in arrays)
    group = q.shape[1] // keys.shape[1]
    k, v = (np.concatenate(pair).repeat(group, axis=1) for pair in ((old_keys, keys), (old_values, values)))
    scores = np.einsum("mhd,lhd->hml", q, k) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hml,lhd->mhd", weights / weights.sum(-1, keepdims=True), v)
