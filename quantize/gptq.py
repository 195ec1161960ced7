"""GPTQ: round a matrix column by column, and let the columns to come make up for the error already made.

Frantar et al., arXiv 2210.17323. torchao's version is not used: it brings its own formats of scales, where here the integers
must keep two-level scales that one set of integers needs for both engines.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dgemma.quantize.matrix import QuantizedMatrix

DAMPING = 0.01  # of the mean of the Hessian's diagonal
BLOCK = 128  # columns between updates of all that remain


def gptq(weight: Tensor, hessian: Tensor, start: QuantizedMatrix, *, levels: tuple[int, int]) -> QuantizedMatrix:
    """Other integers under the scales of `start`, for less squared error of outputs.

    Args:
        weight: [out, in] float, rotated where the integers are to be.
        hessian: [in, in], the mean outer product of inputs; columns that saw no input are rounded to nearest.
        start: round-to-nearest integers and their scales.
        levels: smallest and largest integer.

    Columns of much input go first (`act_order`), which keeps groups where they are because scales are fixed already.
    """
    step = start.scale[:, None].expand(weight.shape).float()
    if start.multipliers is not None:
        step = step * start.multipliers.repeat_interleave(weight.shape[1] // start.multipliers.shape[1], 1)
    order = hessian.diagonal().argsort(descending=True, stable=True)
    w, step = weight.detach().float()[:, order].clone(), step[:, order]
    inverse = _inverse_factor(hessian[order][:, order])  # upper triangular [in, in]
    integers = torch.empty_like(w)
    for begin in range(0, w.shape[1], BLOCK):
        end = min(begin + BLOCK, w.shape[1])
        errors = torch.empty(w.shape[0], end - begin)
        for i in range(begin, end):
            integers[:, i] = (w[:, i] / step[:, i]).round().clamp(*levels)
            error = (w[:, i] - integers[:, i] * step[:, i]) / inverse[i, i]
            w[:, i:end] -= error[:, None] * inverse[i, i:end]
            errors[:, i - begin] = error
        w[:, end:] -= errors @ inverse[begin:end, end:]
    return replace(start, integers=integers[:, order.argsort()].to(torch.int8))


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped Hessian's inverse, float32; the algebra is in float64."""
    h = hessian.double().clone()
    diagonal = h.diagonal()
    diagonal += DAMPING * diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True).float()
