"""Integers and scales, made once; `export/` lowers the same ones to every engine.

It knows recipes and weights, and nothing of files or graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from dgemma.core.errors import CheckpointError, UsageError
from dgemma.model.checkpoint import is_finite
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.gptq import gptq
from dgemma.quantize.hadamard import rotate_inputs
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.recipes import Recipe
from dgemma.quantize.rounding import LEVELS_4, LEVELS_8, round_4, round_8

__all__ = ["QuantizedMatrix", "quantize", "quantize_matrix", "quantize_rows"]


def quantize_rows(weight: Tensor) -> QuantizedMatrix:
    """Round to nearest per output channel; a row of zeros gets scale 1."""
    return round_8(weight, search=False)


def quantize_matrix(
    name: str, weight: Tensor, recipe: Recipe, hessian: Tensor | None = None, *, levels: tuple[int, int] = LEVELS_4
) -> QuantizedMatrix | None:
    """One parameter under a recipe; None where it stays in float.

    Args:
        name: as in `Denoiser.named_parameters`.
        weight: [..., out, in], any float dtype.
        hessian: mean outer product of the matrix's inputs [in, in], for GPTQ; matrices without one (stacked experts, of which
            calibration sees too few tokens each) get searched scales.
        levels: smallest and largest 4-bit integer; narrower ones are for ablations.
    Raises:
        CheckpointError: the weight holds NaN or infinity.
        UsageError: a group that does not divide.
    """
    bits, rotation = recipe.bits_of(name), recipe.rotation_of(name, weight.shape[-1])
    method = recipe.method_of(name, calibrated=hessian is not None)
    if bits == 32:
        return None
    if not is_finite(weight):
        raise CheckpointError(f"tensor {name} holds NaN or infinity; copy or save the checkpoint again")
    if rotation is not None:
        weight = rotate_inputs(weight.detach().float(), rotation)
        hessian = None if hessian is None else rotate_inputs(rotate_inputs(hessian, rotation).t(), rotation)
    search = method != "nearest"
    if bits == 8:
        matrix = round_8(weight, search=search)
    else:
        matrix = round_4(weight, recipe.group_of(name, weight.shape[-1]), search=search, levels=levels)
    if method == "gptq" and hessian is not None:
        matrix = gptq(weight, hessian, matrix, levels=levels if bits == 4 else LEVELS_8)
    return replace(matrix, rotation=rotation)


def quantize(
    model: Denoiser, recipe: Recipe, hessians: Mapping[str, Tensor] | None = None, *, levels: tuple[int, int] = LEVELS_4
) -> dict[str, QuantizedMatrix]:
    """Parameter name → integers, for every matrix that the recipe quantizes.

    Args:
        hessians: by parameter name, see `calibration.hessians`; needed where the recipe names `gptq`.
        levels: as in `quantize_matrix`.
    Raises:
        CheckpointError, UsageError: see `quantize_matrix`; UsageError too when calibration is missing.
    """
    if recipe.needs_calibration and hessians is None:
        raise UsageError(f"recipe {recipe.name!r} uses gptq, which needs calibration prompts; give --calibration FILE.jsonl")
    found = {}
    for name, parameter in model.named_parameters():
        if matrix := quantize_matrix(name, parameter, recipe, (hessians or {}).get(name), levels=levels):
            found[name] = matrix
    return found
