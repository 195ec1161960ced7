"""Softmax whose weights are never denormal floats. On Intel's processors, one denormal takes a hundred times as long, and
attention of full-size layers was seen to take ten times as long because of a few.

onnxruntime can flush them to zero, but only in the threads of its pool and, permanently, in the first thread that opens a
session, which is its caller's. Weights are therefore at least 1e-30, which does not change their sums; rows of NaN stay NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset21 as op

LEAST = 1e-30


def _translate(x: Any, dim: int, dtype: int = -1) -> Any:
    """`dtype` is that of x: softmax is taken of float32 here."""
    return op.Clip(op.Softmax(x, axis=dim), op.Constant(value_float=LEAST))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.softmax.int: _translate}
