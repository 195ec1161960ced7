"""A bundle's graphs, with layers and head as static graphs of an accelerator, and everything else on the processor.

It has the graphs that the manifest names (encode, denoise, denoise_active, decode, check), except `generate`, the loop of all
steps in one graph. So sessions and `verify` need not know of it. It knows nothing of what runs a static graph. Letters as in
`accelerator_host.py`; N canvas.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from dgemma.core.errors import EngineError
from dgemma.core.manifest import GraphSpec, StaticGraph, TargetSpec
from dgemma.core.sampler import CANDIDATE_OUTPUTS
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.accelerator_host import Array, Pass, Table, constants, padded
from dgemma.runtime.engines.base import Engine, Feeds
from dgemma.runtime.engines.host_sampler import Tiles, next_tokens, sample

_FUSED = "generate"


class StaticEngine(Engine):
    """Attributes:
    label: what runs, for people and `--json`.
    spec: of the target.
    """

    name: ClassVar[str] = "onnx"

    def __init__(self, bundle: Bundle, spec: TargetSpec, *, version: str, threads: int | None = None) -> None:
        super().__init__(bundle, version=version, threads=threads)
        self.spec = spec
        self.label = self._prepare()
        config = bundle.manifest.model
        self._config, self._policy = config, bundle.manifest.sampler
        outputs = {spec.name for spec in bundle.graph(self.name, "denoise").outputs}
        self._has_candidates = outputs.issuperset(CANDIDATE_OUTPUTS)
        self._constants = constants(bundle.file(self.spec.constants), config)
        self._table = Table(bundle, self.spec.table, float(self._constants["embed_scale"][0]))
        self._graphs: dict[str, Callable[[Feeds], Sequence[Array]]] = {
            "encode": self._encode,
            "decode": self._decode,
            "check": self._check,
            "denoise": self._denoise,
            "denoise_active": self._denoise_active,
        }
        spans = sorted({(g.first, g.last) for g in self.spec.graphs if g.part == "head"})
        self._tiles = Tiles(spans=spans, cap=config.final_logit_softcapping)

    @abstractmethod
    def _prepare(self) -> str:
        """Check what is needed, and say where the graphs run; returns the label. Raises EngineError."""

    @abstractmethod
    def _native(self, graph: StaticGraph, feeds: Feeds) -> Feeds:
        """Run one static graph: inputs by name → outputs by name, in the graph's order. Raises EngineError."""

    def _load(self, graph: str, spec: GraphSpec) -> None:
        if graph == _FUSED:
            raise EngineError(f"{self.label} has no graph of all steps (--loop graph); use --loop host, or --target cpu")
        if graph not in self._graphs:
            raise EngineError(f"{self.label} has no graph {graph!r}; use --target cpu")

    def _call(self, graph: str, feeds: Feeds) -> Sequence[Array]:
        return self._graphs[graph](feeds)

    # What the manifest's graphs do.

    def _encode(self, feeds: Feeds) -> Sequence[Array]:
        return self._causal(feeds)[1]

    def _decode(self, feeds: Feeds) -> Sequence[Array]:
        hidden, new = self._causal(feeds)
        last = int(feeds["count"][0]) - 1
        return [self._next(hidden[:, last : last + 1])[0], *new]

    def _check(self, feeds: Feeds) -> Sequence[Array]:
        hidden, new = self._causal(feeds)
        return [self._next(hidden[:, feeds["rows"]]), *new]

    def _denoise(self, feeds: Feeds) -> Sequence[Array]:
        canvas = feeds["canvas"]
        positions, settled = np.arange(canvas.shape[1]), np.zeros(canvas.shape[1], np.bool_)
        return self._step(feeds, positions, settled)[0]

    def _denoise_active(self, feeds: Feeds) -> Sequence[Array]:
        sampled, new = self._step(feeds, feeds["positions"][0], feeds["settled"][0])
        return [*sampled, *new]

    def _step(self, feeds: Feeds, positions: Array, settled: Array) -> tuple[list[Array], list[Array]]:
        """`denoise` of the rows at those positions: its outputs, and the rows' keys and values."""
        canvas = feeds["canvas"]
        x = self._run("condition", canvas.shape[1], {"embedded": self._table.embed(canvas), "soft": feeds["soft"]})[0]
        hidden, new = self._layers(x, feeds, int(feeds["prefix_length"][0]), positions, settled, canvas=True)
        drawn = sample(
            self._tiles,
            lambda tile: self._products(hidden, tile),
            self._table.expected,
            self._table.embed,
            self._policy,
            feeds["words"],
            float(feeds["temperature"][0]),
        )
        outputs: tuple[Array, ...] = (drawn.canvas, drawn.argmax, drawn.entropy, drawn.accepted, drawn.soft)
        if self._has_candidates:
            outputs += (drawn.drawn, drawn.likeliest, drawn.log_probs)
        return [np.ascontiguousarray(o[None]) for o in outputs], new

    # The parts on the accelerator.

    def _causal(self, feeds: Feeds) -> tuple[Array, list[Array]]:
        tokens, start = feeds["tokens"], int(feeds["start"][0])
        settled = np.zeros(1, np.bool_)
        return self._layers(self._table.embed(tokens), feeds, start, np.arange(tokens.shape[1]), settled, canvas=False)

    def _layers(
        self, x: Array, feeds: Feeds, length: int, positions: Array, settled: Array, *, canvas: bool
    ) -> tuple[Array, list[Array]]:
        """x [1, n, D] → hidden [1, n, D] and new keys and values [1, n, K, d] in their order."""
        config, n = self._config, x.shape[1]
        kept = {full: next((i for i in range(config.num_layers) if config.is_full(i) == full), None) for full in (False, True)}
        slots = {full: 0 if i is None else feeds[f"prefix_key_{i}"].shape[1] for full, i in kept.items()}
        most = max(slots.values())
        chain = self._chain(n, most)
        row = Pass(
            n=n, rows=chain[0].rows, length=length, slots=most, local=slots[False] or most, canvas=canvas,
            positions=positions, settled=settled,
        )  # fmt: skip
        scalars = self._constants["denoise_scalars" if canvas else "encode_scalars"]
        tables: dict[bool, Feeds] = {}
        for full, kind in ((False, "sliding"), (True, "full")):
            if kept[full] is None:
                continue
            cos, sin = row.rotations(self._constants[f"{kind}_frequencies"])
            bias = row.bias(self._room(chain[0], full), None if full else config.sliding_window)
            tables[full] = {f"cos_{kind}": cos, f"sin_{kind}": sin, f"bias_{kind}": bias}
        new: list[Array] = []
        for graph in chain:
            fed: Feeds = {"x": padded(x, row.rows, 1)}
            for i in range(graph.first, graph.last):
                fed |= tables[config.is_full(i)]
                fed[f"scalar_{i}"] = scalars[i : i + 1]
                room = self._room(graph, config.is_full(i))
                for kind in ("key", "value"):
                    prefix = feeds[f"prefix_{kind}_{i}"]
                    fed[f"prefix_{kind}_{i}"] = padded(prefix[:, -room:], room, 1)
            out = self._native(graph, fed)
            x = out["hidden"]
            new += [out[f"new_{kind}_{i}"][:, :n] for i in range(graph.first, graph.last) for kind in ("key", "value")]
        return x[:, :n], [np.ascontiguousarray(a) for a in new]

    def _chain(self, rows: int, slots: int) -> list[StaticGraph]:
        """The graphs of all layers, for the fewest rows and slots that are enough."""
        sizes = sorted(
            {(g.rows, g.slots) for g in self.spec.graphs if g.part == "layers" and g.rows >= rows and g.slots >= slots}
        )
        if not sizes:
            raise EngineError(f"no graph of {self.label} takes {rows} rows behind a prefix of {slots}; export the bundle again")
        found = [g for g in self.spec.graphs if g.part == "layers" and (g.rows, g.slots) == sizes[0]]
        return sorted(found, key=lambda g: g.first)

    def _room(self, graph: StaticGraph, full: bool) -> int:
        """Slots of a graph's inputs for one kind of layer."""
        return graph.slots if full else min(graph.slots, self.spec.local)

    def _run(self, part: str, n: int, feeds: Feeds, first: int = 0) -> list[Array]:
        """A part that works row by row, on n rows filled up to the fewest that a graph has."""
        fitting = [g for g in self.spec.graphs if g.part == part and g.first == first and g.rows >= n]
        if not fitting:
            raise EngineError(f"no graph of {self.label} takes {n} rows in its {part}; export the bundle again")
        graph = min(fitting, key=lambda g: g.rows)
        out = self._native(graph, {name: padded(array, graph.rows, 1) for name, array in feeds.items()})
        return [array[:, :n] for array in out.values()]

    def _products(self, hidden: Array, tile: int) -> Array:
        """hidden [1, R, D] → products with a tile of the table [R, t]."""
        products: Array = self._run("head", hidden.shape[1], {"hidden": hidden}, self._tiles.spans[tile][0])[0][0]
        return products

    def _next(self, hidden: Array) -> Array:
        """hidden [1, R, D] → ids [1, R]."""
        ids: Array = next_tokens(self._tiles, lambda tile: self._products(hidden, tile)).astype(np.int64)
        return ids[None]
