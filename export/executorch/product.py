"""A single matrix product as a bundle's `.pte` has it, for `dgemma bench` to measure its speed.

    python -m dgemma.export.executorch.product FILE int8|int4|float32 ROWS INNER OUTER COPIES

Weights are random. The number of rows is open, as in a bundle; ROWS is the largest. Only one column of each product's
outputs leaves the graph, so that copying them takes no time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from executorch.exir import ExecutorchBackendConfig
from torch import Tensor, nn

from dgemma.core.manifest import TensorSpec
from dgemma.export.executorch.exir_patches import patched_exir
from dgemma.export.executorch.linear import IntegerLinear
from dgemma.export.executorch.lower import delegate
from dgemma.export.graphs import Shapes
from dgemma.export.trace import trace
from dgemma.quantize.rounding import round_4, round_8

FORMS = ("int8", "int4", "float32")
GROUP = 128  # columns to a multiplier of the int4 product, as in the recipes that are shipped


class Products(nn.Module):
    """Several matrices [F, D] that one x is multiplied with, as a layer's are."""

    def __init__(self, form: str, inner: int, outer: int, copies: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.parts = nn.ModuleList(_linear(form, inner, outer, generator) for _ in range(copies))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [1, M, D] → [1, M, 1] of each."""
        return [part(x)[..., :1] for part in self.parts]


def _linear(form: str, inner: int, outer: int, generator: torch.Generator) -> nn.Module:
    assert form in FORMS, f"{form=} is not one of {FORMS}"
    weight = torch.randn(outer, inner, generator=generator)
    if form == "float32":
        linear = nn.Linear(inner, outer, bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        return linear
    assert form == "int8" or inner % GROUP == 0, f"groups of {GROUP} do not divide {inner} inputs"
    return IntegerLinear(round_8(weight, search=False) if form == "int8" else round_4(weight, GROUP, search=False))


def write(file: Path, form: str, rows: int, inner: int, outer: int, copies: int) -> None:
    """Lower and write a program with one method, `forward`: x [1, M, inner] float32, M up to `rows` → as `Products`."""
    x = TensorSpec(name="x", dtype="float32", shape=(1, "M", inner))
    module, shapes = Products(form, inner, outer, copies).eval(), Shapes(canvas=rows, chunk=rows, context=rows)
    with patched_exir(), torch.no_grad():
        program = delegate(trace(module, [x], shapes)).to_executorch(ExecutorchBackendConfig())
    with file.open("wb") as out:
        program.write_to_file(out)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], *(int(number) for number in sys.argv[3:7]))
