"""Softmax whose weights are never denormal floats: Intel's processors take a hundred times as long for one, and attention of
full-size layers was seen to take ten times as long for a few of them.

onnxruntime can flush them to zero, but in the threads of its pool and for good in the first thread that opens a session, which
is its caller's. So weights are at least 1e-30, which changes no sum of theirs; where there is nothing but NaN, it stays.
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
