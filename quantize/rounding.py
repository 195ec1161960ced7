"""Round to nearest: a float matrix to integers and scales, with scales as they come or searched for the least squared error.

Rows are independent, so matrices of any size go through in chunks of rows. It knows nothing of models, recipes or files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgemma.quantize.cores import cores
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.squared_errors import Errors, best, by_torch, rounded

CLIPS_8 = (1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8)  # shares of a row's largest magnitude that 127 may stand for
SCALES_4 = range(-3, 3)  # 4-bit scales around the smallest that clips nothing, in eighths of an octave
DEPTH_4 = 4  # multipliers tried for a group, from the one that clips nothing downwards
MULTIPLIERS = 15
LEVELS_4, LEVELS_8 = (-8, 7), (-127, 127)
CHUNK = 1 << 18  # elements of a chunk; its temporaries stay in a processor's cache or near it
_SMALLEST = 2.0**-100  # of a scale: its products stay normal numbers in bfloat16

Parts = tuple[Tensor, ...]


def round_8(weight: Tensor, *, search: bool) -> QuantizedMatrix:
    """weight [..., out, in] finite → int8 per channel; a row of zeros gets scale 1.

    Args:
        search: try smaller ranges than the largest magnitude's, row by row, and keep the one of least squared error.
    """

    errors, clips = best(weight.numel()) if search else by_torch, torch.tensor(CLIPS_8)

    def rows(w: Tensor) -> Parts:  # [R, in]
        scale = w.abs().amax(1) / 127
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        if search:
            scale = scale * clips[errors(w, scale[:, None] * clips, LEVELS_8).argmin(1)]
        return rounded(w, scale[:, None], LEVELS_8).to(torch.int8), scale

    integers, scale = _in_chunks(weight, rows)
    return QuantizedMatrix(bits=8, integers=integers, scale=scale)


def round_4(weight: Tensor, group: int, *, search: bool, levels: tuple[int, int] = LEVELS_4) -> QuantizedMatrix:
    """weight [..., out, in] finite → int4 with two-level scales; a group of zeros gets multiplier 1, a row of them scale 1.

    A scale is m·2^e with m in 8 … 15, so a multiplier times it has 8 significant bits at most and is exact in bfloat16.

    Args:
        group: inputs that share a multiplier; divides in.
        search: over scales by row and multipliers by group, for the least squared error.
        levels: smallest and largest integer; narrower ones are for ablations.
    """

    errors = best(weight.numel()) if search else by_torch

    def rows(w: Tensor) -> Parts:  # [R, in]
        w = w.unflatten(1, (-1, group))  # [R, G, group]
        low, high = levels
        whole = torch.maximum(w.amax(2) / high, w.amin(2) / low)  # steps that clip nothing, [R, G]
        index = _index_of(whole.amax(1) / MULTIPLIERS)  # [R]
        if search:
            scale, multipliers = _search(w, whole, index, levels, errors)
        else:
            scale = _scale_at(index)
            multipliers = _fitting(whole, scale[:, None])
        zero = whole.amax(1) <= 0
        scale, multipliers = torch.where(zero, torch.ones_like(scale), scale), multipliers.masked_fill(whole <= 0, 1)
        integers = rounded(w, (multipliers * scale[:, None])[:, :, None], levels)
        return integers.flatten(1).to(torch.int8), scale, multipliers.to(torch.int8)

    integers, scale, multipliers = _in_chunks(weight, rows)
    return QuantizedMatrix(bits=4, integers=integers, scale=scale, multipliers=multipliers)


def _in_chunks(weight: Tensor, rows: Callable[[Tensor], Parts]) -> Parts:
    """Apply `rows` to chunks of [R, in] in float32; results are put together as [..., out, ·].

    A core has a chunk of its own: with every operation spread over cores, they would wait for each other many times a chunk.
    """
    chunks = weight.detach().reshape(-1, weight.shape[-1]).split(max(1, CHUNK // weight.shape[-1]))
    with cores(len(chunks)) as pool:
        parts = list(pool.map(lambda chunk: rows(chunk.float()), chunks))
        whole = list(pool.map(torch.cat, zip(*parts, strict=True)))
    return tuple(part.unflatten(0, weight.shape[:-1]) for part in whole)


def _fitting(whole: Tensor, scale: Tensor) -> Tensor:
    """The smallest multipliers that clip nothing, as floats, where 15 is enough for that."""
    return (whole / scale).ceil().clamp(1, MULTIPLIERS)


def _search(w: Tensor, whole: Tensor, index: Tensor, levels: tuple[int, int], errors: Errors) -> tuple[Tensor, Tensor]:
    """Scale [R] and multipliers [R, G] of least squared error, the first of equals; those of `_fitting` are candidates."""
    rows, groups = whole.shape
    scales = _scale_at(index[:, None] + torch.tensor(SCALES_4))  # [R, K]
    fitting = _fitting(whole[:, :, None], scales[:, None])
    candidates = (fitting[..., None] - torch.arange(DEPTH_4)).clamp_(min=1)  # [R, G, K, D]
    steps = candidates * scales[:, None, :, None]
    found = errors(w.flatten(0, 1), steps.flatten(2).flatten(0, 1), levels).view_as(steps)
    error, depth = found.min(3)  # [R, G, K]
    total, scale = error.transpose(1, 2).contiguous().sum(2).min(1)  # [R]
    multipliers = candidates.gather(3, depth[..., None])[..., 0]
    chosen = multipliers.gather(2, scale[:, None, None].expand(rows, groups, 1))[..., 0]
    beyond = total == torch.inf  # too large to be squared: nothing is better than anything else
    return scales.gather(1, scale[:, None])[:, 0].masked_fill(beyond, 1), chosen.masked_fill(beyond[:, None], 1)


def _index_of(least: Tensor) -> Tensor:
    """Index of the smallest scale that is no smaller, in the row of all m·2^e with m in 8 … 15."""
    mantissa, exponent = torch.frexp(least.clamp(min=_SMALLEST))
    return 8 * (exponent.long() - 4) + (mantissa * 16).ceil().long() - 8


def _scale_at(index: Tensor) -> Tensor:
    return torch.ldexp((8 + index % 8).float(), torch.div(index, 8, rounding_mode="floor"))
