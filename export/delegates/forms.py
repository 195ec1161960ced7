"""The methods of a backend's `.pte` files: which part each computes, with how many rows and slots, and its tensors in order.

It knows nothing of torch and of backends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgemma.core.config import ModelConfig
from dgemma.core.manifest import StaticGraph, TensorSpec
from dgemma.export.static import Sizes

FLOAT32 = "float32"


@dataclass(frozen=True, kw_only=True)
class Form:
    """A method. Letters as in `modules.py`; of a head, `span` is of ids."""

    part: str
    span: tuple[int, int]
    rows: int
    slots: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def name(self) -> str:
        """An identifier, for backends make names of functions of it."""
        span = f"_{self.span[0]}_{self.span[1]}" if self.part != "condition" else ""
        return f"{self.part}{span}_{self.rows}{f'x{self.slots}' if self.slots else ''}"

    def graph(self, file: str) -> StaticGraph:
        """As the manifest has it."""
        return StaticGraph(
            part=self.part, first=self.span[0], last=self.span[1], rows=self.rows, slots=self.slots, file=file,  # type: ignore[arg-type]  # one of the literals
            method=self.name, inputs=self.inputs, outputs=self.outputs,
        )  # fmt: skip


def _tensors(*named: tuple[str, Sequence[int]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype=FLOAT32, shape=tuple(shape)) for name, shape in named)


def condition(config: ModelConfig, rows: int) -> Form:
    shape = (1, rows, config.hidden_size)
    return Form(
        part="condition", span=(0, 0), rows=rows, slots=0,
        inputs=_tensors(("embedded", shape), ("soft", shape)), outputs=_tensors(("conditioned", shape)),
    )  # fmt: skip


def layers(config: ModelConfig, span: tuple[int, int], rows: int, slots: int, local: int) -> Form:
    """`local`: slots that sliding layers have."""
    x = (1, rows, config.hidden_size)
    inputs: list[tuple[str, Sequence[int]]] = [("x", x)]
    outputs: list[tuple[str, Sequence[int]]] = [("hidden", x)]
    for full in sorted({config.is_full(i) for i in range(*span)}):
        kind, dim = ("full", config.global_head_dim) if full else ("sliding", config.head_dim)
        room = slots if full else local
        inputs += [(f"cos_{kind}", (rows, 1, dim // 2)), (f"sin_{kind}", (rows, 1, dim // 2))]
        inputs += [(f"bias_{kind}", (rows, room + rows))]
    inputs += [(f"scalar_{i}", (1,)) for i in range(*span)]
    for i in range(*span):
        of_head = (config.layer_kv_heads(i), config.layer_head_dim(i))
        for kind in ("key", "value"):
            inputs.append((f"prefix_{kind}_{i}", (1, slots if config.is_full(i) else local, *of_head)))
            outputs.append((f"new_{kind}_{i}", (1, rows, *of_head)))
    return Form(part="layers", span=span, rows=rows, slots=slots, inputs=_tensors(*inputs), outputs=_tensors(*outputs))


def head(config: ModelConfig, span: tuple[int, int], rows: int) -> Form:
    return Form(
        part="head", span=span, rows=rows, slots=0,
        inputs=_tensors(("hidden", (1, rows, config.hidden_size))),
        outputs=_tensors(("products", (1, rows, span[1] - span[0]))),
    )  # fmt: skip


def files(
    config: ModelConfig, sizes: Sizes, canvas: int, spans: Sequence[tuple[int, int]], tiles: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, list[Form]]]:
    """Names of files and their methods: self-conditioning with the first layers; others; the head."""
    for span in spans:
        forms = [condition(config, rows) for rows in sizes.rows if rows <= canvas] if span[0] == 0 else []
        forms += [layers(config, span, rows, slots, min(slots, sizes.local)) for rows in sizes.rows for slots in sizes.slots]
        yield f"layers_{span[0]}_{span[1]}.pte", forms
    yield "head.pte", [head(config, tile, rows) for tile in tiles for rows in sizes.rows]
