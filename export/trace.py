"""Tracing a graph module with `torch.export`, with the lengths named in its specs left open."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dgemma.core.manifest import TensorSpec
from dgemma.export.graphs import PREFIX_DIMS, Shapes, example


def trace(module: nn.Module, inputs: list[TensorSpec], shapes: Shapes) -> ExportedProgram:
    """Export with example inputs; dimensions S and L span the context, C the chunk, A and E the canvas, M and R what is longer,
    chunk or canvas."""
    most = max(shapes.chunk, shapes.canvas)
    lengths = dict.fromkeys(PREFIX_DIMS, shapes.context)
    lengths |= {"C": shapes.chunk, "A": shapes.canvas, "E": shapes.canvas, "M": most, "R": most}
    ranges = {name: (1, length) for name, length in lengths.items()}
    sizes = {name: max(2, high // 2) for name, (_, high) in ranges.items()}
    arguments = example(inputs, sizes | {"L": max(2, shapes.context // 3)})  # of equal sizes the tracer makes one

    def dynamic(spec: TensorSpec) -> dict[int, object]:
        open_sizes = {i: ranges[size] for i, size in enumerate(spec.shape) if isinstance(size, str)}
        return {i: Dim.DYNAMIC(min=low, max=high) for i, (low, high) in open_sizes.items()}

    scalars = sum(isinstance(argument, Tensor) for argument in arguments)
    prefix = [dynamic(s) for s in inputs[scalars:]]
    dynamic_shapes = (*map(dynamic, inputs[:scalars]), *([prefix] if prefix else []))
    with torch.no_grad():
        return torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes, strict=False)
