"""Tracing a graph module with `torch.export`, the prefix and chunk lengths left open."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from dgemma.core.manifest import TensorSpec
from dgemma.export.graphs import Shapes, example


def trace(module: nn.Module, inputs: list[TensorSpec], shapes: Shapes) -> ExportedProgram:
    """Export with example inputs; dimension S spans the context and C the chunk."""
    ranges = {"S": (1, shapes.context), "C": (1, shapes.chunk)}
    sizes = {"S": max(2, shapes.context // 2), "C": max(2, shapes.chunk // 2)}
    arguments = example(inputs, sizes)

    def dynamic(spec: TensorSpec) -> dict[int, object]:
        open_sizes = {i: ranges[size] for i, size in enumerate(spec.shape) if isinstance(size, str)}
        return {i: Dim.DYNAMIC(min=low, max=high) for i, (low, high) in open_sizes.items()}

    scalars = len(arguments) - 1
    dynamic_shapes = (*map(dynamic, inputs[:scalars]), [dynamic(s) for s in inputs[scalars:]])
    with torch.no_grad():
        return torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes, strict=False)
