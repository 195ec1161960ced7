"""Which graphs of a model share a context, and what compiling one takes: seconds and memory, from the config alone.

Compilers keep what they made of every graph's weights until the context is written, so memory grows with weights times graphs.
Layers are therefore split until a compiler stays within `MOST_MEMORY`, on every machine alike: bundles do not depend on it.
It knows nothing of compilers' options.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dgemma.core.accelerators import QNN
from dgemma.core.config import ModelConfig
from dgemma.core.machine import usable_cores
from dgemma.core.shapes import Shape, parameter_shapes
from dgemma.export.graphs import Shapes
from dgemma.export.spans import MOST_BYTES, TABLE, split, stored_bytes
from dgemma.export.static import Sizes, tiles
from dgemma.quantize.recipes import Recipe

MOST_MEMORY = 5_000_000_000  # bytes of a compiler, so that two of them and the export fit into 12 GB
# Fitted to benchmarks/results/npu-compile.json: one to six layers of `2b`, onnxruntime-qnn 2.7.0, on a busy machine.
_BASE = 250_000_000  # bytes of a compiler without weights
_KEPT = 3.7  # bytes for each stored byte of each graph, and once more for the one that is made
_SECONDS = {4: 6.3e-8, 8: 3.2e-8, 32: 3.2e-8}  # for a weight, by its bits in the recipe
_ROW_SECONDS = 1.3e-10  # for a weight and a row
_LAYER_SECONDS = 0.15  # for a layer of a graph, however small


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of a graph: how many, the bytes that they take in a context, and the processor seconds that they add to a graph."""

    count: int
    stored: int
    seconds: float

    @classmethod
    def of(cls, recipe: Recipe, shapes: Mapping[str, Shape]) -> Weights:
        counts = {name: math.prod(shape) for name, shape in shapes.items()}
        return cls(
            count=sum(counts.values()),
            stored=sum(stored_bytes(recipe, name, shape) for name, shape in shapes.items()),
            seconds=sum(_SECONDS[recipe.bits_of(name)] * count for name, count in counts.items()),
        )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One graph: `condition`, `layers` or `head`, and the layers or ids it is of."""

    part: str
    first: int
    last: int
    rows: int
    slots: int
    weights: Weights

    @property
    def name(self) -> str:
        return "-".join([self.part, f"{self.first}-{self.last}", f"{self.rows}x{self.slots}" if self.slots else f"{self.rows}"])

    @property
    def seconds(self) -> float:
        """Processor seconds of compiling it."""
        layers = self.last - self.first if self.part == "layers" else 1
        return self.weights.seconds + _ROW_SECONDS * self.weights.count * self.rows + _LAYER_SECONDS * layers


@dataclass(frozen=True, kw_only=True)
class Context:
    """Graphs that store their weights once."""

    pieces: tuple[Piece, ...]

    @property
    def memory(self) -> int:
        """Most bytes of the compiler."""
        stored = [piece.weights.stored for piece in self.pieces]
        return int(_BASE + _KEPT * (sum(stored) + max(stored)))

    @property
    def stored(self) -> int:
        """Bytes of weights."""
        return sum({(piece.part, piece.first): piece.weights.stored for piece in self.pieces}.values())

    @property
    def seconds(self) -> float:
        return sum(piece.seconds for piece in self.pieces)


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Of a model, in order: layers from the first on, self-conditioning with the first of them; then the head."""

    config: ModelConfig
    recipe: Recipe
    shapes: Shapes

    @cached_property
    def sizes(self) -> Sizes:
        return Sizes.of(self.shapes, self.config)

    @cached_property
    def all(self) -> tuple[Context, ...]:
        """Raises UsageError where a layer or the table is larger than a context."""
        rows, slots = self.sizes.rows, self.sizes.slots
        most = self._most(len(rows) * len(slots))
        layers = [self._layers(span) for span in split(self.config, self.recipe, QNN, most)]
        return tuple(Context(pieces=tuple(pieces)) for pieces in (*layers, *self._heads()))

    @property
    def memory(self) -> int:
        """Most bytes of one compiler."""
        return max(context.memory for context in self.all)

    @property
    def graphs(self) -> int:
        return sum(len(context.pieces) for context in self.all)

    @property
    def stored(self) -> int:
        """Bytes of weights in all of them."""
        return sum(context.stored for context in self.all)

    @property
    def seconds(self) -> float:
        """Processor seconds to compile them all for one chip."""
        return sum(context.seconds for context in self.all)

    def at_once(self, free: int | None) -> int:
        """Compilers that may run at the same time: one a core, as far as free memory goes."""
        fitting = 1 if free is None else max(1, int(free / (1.1 * self.memory)))
        return min(usable_cores(), fitting, len(self.all))

    def _most(self, graphs: int) -> int:
        """Most bytes of weights that a context has, if that many graphs read all of them."""
        return int((MOST_MEMORY - _BASE) / (_KEPT * (graphs + 1)))

    def _layers(self, span: tuple[int, int]) -> Iterator[Piece]:
        sizes = self.sizes
        if span[0] == 0:
            weights = self._of("self_conditioning.")
            for rows in (r for r in sizes.rows if r <= self.shapes.canvas):
                yield Piece(part="condition", first=0, last=0, rows=rows, slots=0, weights=weights)
        weights = self._of(*(f"layers.{i}." for i in range(*span)))
        for rows in sizes.rows:
            for slots in sizes.slots:
                yield Piece(part="layers", first=span[0], last=span[1], rows=rows, slots=slots, weights=weights)

    def _heads(self) -> Iterator[Sequence[Piece]]:
        """Tiles of the table, as many in a context as it has room for."""
        most, pieces, held = min(MOST_BYTES, self._most(len(self.sizes.rows))), list[Piece](), 0
        for first, last in tiles(self.config.vocab_size):
            weights = Weights.of(self.recipe, {TABLE: (last - first, self.config.hidden_size)})
            if pieces and held + weights.stored > most:
                yield pieces
                pieces, held = [], 0
            pieces += [Piece(part="head", first=first, last=last, rows=r, slots=0, weights=weights) for r in self.sizes.rows]
            held += weights.stored
        yield pieces

    def _of(self, *prefixes: str) -> Weights:
        found = {name: shape for name, shape in parameter_shapes(self.config).items() if name.startswith(prefixes)}
        return Weights.of(self.recipe, found)
