"""Squared errors of rounding rows to integers, for several steps at once: by torch, or by a kernel that gives the same bits.

The kernel is compiled when a process first has much to round, with the C++ compiler that is there, and used if its bits are
those of torch's sums here. `DGEMMA_NATIVE=0` leaves it out.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from dgemma.core import compiler
from dgemma.quantize.cores import cores

Levels = tuple[int, int]
# (w [n, size], steps [n, C], smallest and largest integer) → squared errors summed over each row [n, C]
Errors = Callable[[Tensor, Tensor, Levels], Tensor]

SOURCE = Path(__file__).with_name("squared_errors.cpp")
WORTH = 1 << 22  # weights to be rounded that are worth compiling the kernel
_FLAGS = ("-std=c++17", "-O3", "-w", "-fPIC", "-shared", "-fvisibility=default", "-ffp-contract=off")
_LANES = (8, 4)  # of torch's vectors: AVX2, and ARM's
_SIZES = (1, 7, 8, 31, 32, 64, 77, 128, 513, 2816, 9001, 140_000)  # of rows that kernel and torch are compared on
_BUILD_S = 60


def best(weights: int) -> Errors:
    """The function to use for so many weights."""
    return (weights >= WORTH and kernel()) or by_torch


def by_torch(w: Tensor, steps: Tensor, levels: Levels) -> Tensor:
    """See `Errors`; bits are those that a single thread adds up."""
    columns = (step[:, None] for step in steps.unbind(1))
    return torch.stack([rounded(w, step, levels).mul_(step).sub_(w).square_().sum(1) for step in columns], 1)


def rounded(w: Tensor, step: Tensor, levels: Levels) -> Tensor:
    """w / step to the nearest integers within levels, as floats."""
    return (w / step).round_().clamp_(*levels)


@cache
def kernel() -> Errors | None:
    """The compiled one; None without a compiler, or where its bits are others than torch's."""
    function = _compiled()
    if function is None:
        return None
    candidates = [partial(_call, function, lanes) for lanes in _LANES]
    with cores(1) as alone:  # several threads add in another order
        agree = list(alone.map(_agrees, candidates))
    return next((errors for errors, same in zip(candidates, agree, strict=True) if same), None)


def _compiled() -> Callable[..., bool] | None:
    found = compiler.find()
    if found is None or os.environ.get("DGEMMA_NATIVE") == "0" or sys.platform == "win32":
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="dgemma-") as folder:  # what is loaded outlives its file
            file = Path(folder) / "squared_errors.so"
            subprocess.run([found, *_FLAGS, SOURCE, "-o", file], check=True, capture_output=True, timeout=_BUILD_S)
            function = ctypes.CDLL(str(file)).dg_squared_errors
    except (OSError, subprocess.SubprocessError):
        return None
    pointer, size, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    function.argtypes = (pointer, size, size, pointer, size, real, real, ctypes.c_int, pointer)
    function.restype = ctypes.c_bool
    return function


def _call(function: Callable[..., bool], lanes: int, w: Tensor, steps: Tensor, levels: Levels) -> Tensor:
    w, steps = w.contiguous(), steps.contiguous()
    out = torch.empty_like(steps)
    if function(w.data_ptr(), *w.shape, steps.data_ptr(), steps.shape[1], *levels, lanes, out.data_ptr()):
        return out
    return by_torch(w, steps, levels)


def _agrees(errors: Errors) -> bool:
    """Whether its bits are torch's, on rows of many sizes."""
    numbers = torch.Generator().manual_seed(0)
    for size in _SIZES:
        w = torch.randn(3, size, generator=numbers)
        steps = 0.1 + torch.rand(3, 5, generator=numbers)
        if not torch.equal(errors(w, steps, (-8, 7)), by_torch(w, steps, (-8, 7))):
            return False
    return True
