"""Integers and scales, made once; `export/` lowers the same ones to every engine.

It knows recipes and weights, and nothing of graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgemma.model.denoiser import Denoiser
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.recipes import Recipe, class_of


def quantize_rows(weight: Tensor) -> QuantizedMatrix:
    """Round to nearest per output channel; a row of zeros gets scale 1."""
    largest = weight.detach().float().abs().amax(1)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    integers = torch.round(weight.detach().float() / scale[:, None]).clamp(-127, 127).to(torch.int8)
    return QuantizedMatrix(bits=8, integers=integers, scale=scale)


def quantize(model: Denoiser, recipe: Recipe) -> dict[str, QuantizedMatrix]:
    """Parameter name → integers, for every matrix that the recipe quantizes."""
    found = {}
    for name, parameter in model.named_parameters():
        tensor_class = class_of(name)
        if tensor_class is not None and recipe.bits[tensor_class] == 8:
            found[name] = quantize_rows(parameter)
    return found
