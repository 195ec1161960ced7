"""The graphs of an accelerator as backends: on the accelerator, or its emulator, and as they were written, on the processor.

On the processor ONNX Runtime computes them in float32 with nothing fused, integers and ranges included. So what differs there
from the graphs above is the export's, and what differs from it on the accelerator is the accelerator's. Both put out logits,
and on request the tensors that the model taps. It knows nothing of comparisons.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dgemma.core.accelerators import QNN
from dgemma.core.errors import EngineError
from dgemma.core.manifest import StaticGraph
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import choose, qnn_sessions
from dgemma.runtime.engines.accelerator_host import Array
from dgemma.runtime.engines.base import Engine, Feeds
from dgemma.runtime.engines.qnn import QnnEngine
from dgemma.runtime.session import Session
from dgemma.verify.backend import tap_order
from dgemma.verify.engine_backend import EngineBackend

SOURCES, EMULATED = "onnx/qnn sources", "onnx/qnn (emulated)"


class TappedEngine(QnnEngine):
    """An accelerator's graphs, whose last denoising step has logits, and with `taps` all tensors by name.

    Args:
        sources: run them on the processor, where no package for the accelerator is needed.
    """

    def __init__(self, bundle: Bundle, *, version: str, threads: int | None = None, taps: bool = False, sources: bool = False):
        self._wants_taps, self._sources = taps, sources
        self._found: Feeds = {}
        self._tiles_seen: dict[int, Array] = {}
        super().__init__(bundle, version=version, threads=threads, target=QNN)

    def taps(self, graph: str) -> Feeds:
        """Tensors by tap, without a batch, of the last run."""
        return dict(self._found) if self._wants_taps else {}

    def logits(self, outputs: Feeds) -> Array:
        """Before temperature, [N, V] float32, of the last denoising step."""
        tiles = [self._tiles.logits(self._tiles_seen[i]) for i in range(len(self._tiles.spans))]
        joined: Array = np.concatenate(tiles, -1)
        return joined

    def routers(self, outputs: Feeds) -> dict[int, Array]:
        return {}

    def _prepare(self) -> str:
        return f"{SOURCES} ({self.spec.chip})" if self._sources else super()._prepare()

    def _open(self, graph: StaticGraph) -> Any:
        if not (self._sources or self._wants_taps):
            return super()._open(graph)
        assert graph.source is not None
        path = self.bundle.file(graph.source)
        model = with_taps(path, tap_order(self._config)) if self._wants_taps else path.read_bytes()
        if self._sources:
            return open_source(path, model, self.threads)
        return qnn_sessions.open_graph(path, self.spec.options, shared=False, threads=self.threads, model=model)

    def _call(self, graph: str, feeds: Feeds) -> Any:
        self._found.clear()
        self._tiles_seen.clear()
        return super()._call(graph, feeds)

    def _products(self, hidden: Array, tile: int) -> Array:
        self._tiles_seen[tile] = super()._products(hidden, tile)
        return self._tiles_seen[tile]

    def _native(self, graph: StaticGraph, feeds: Feeds) -> Feeds:
        out = super()._native(graph, feeds)
        if self._wants_taps and graph.part != "head":
            entering = {"embedded": feeds["embedded" if graph.part == "condition" else "x"][0]}
            self._found = {**entering, **self._found} if graph.first == 0 else self._found
            self._found |= {_tap(name): array[0] for name, array in out.items()}
        return out


def _tap(output: str) -> str:
    """Tap of a graph's output: keys and values are outputs of their own."""
    for kind in ("key", "value"):
        if output.startswith(f"new_{kind}_"):
            return f"layers.{output.rpartition('_')[2]}.{kind[0]}"
    return output


def with_taps(path: Path, names: list[str]) -> bytes:
    """A graph whose values of those names are outputs as well; raises EngineError."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's are of its own kinds
        raise EngineError(f"{path}: cannot be read ({str(error)[:100]}); export the bundle again") from None
    inferred = onnx.shape_inference.infer_shapes(model)
    outputs = {o.name for o in model.graph.output}
    for value in inferred.graph.value_info:
        if value.name in names and value.name not in outputs and not value.name.endswith((".k", ".v")):
            model.graph.output.append(value)
    found: bytes = model.SerializeToString()
    return found


def open_source(path: Path, model: bytes, threads: int | None) -> Any:
    """A session of a graph on the processor, its weights beside `path`; without optimizations, for those replace 16-bit
    activations by 8-bit ones (seen with onnxruntime 1.32.0). Raises EngineError."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.absolute().parent))
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(model, options)
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:200]
        raise EngineError(f"{path}: cannot be run on the processor ({reason}); export the bundle again") from error


class StaticBackend(EngineBackend):
    """A bundle's graphs for an NPU, in its emulator or with `sources` on the processor."""

    fused = False
    steers = False  # the emulator takes seconds a step

    def __init__(self, bundle: Bundle, threads: int | None, *, taps: bool = False, sources: bool = False) -> None:
        super().__init__(bundle, SOURCES if sources else EMULATED, threads, taps=taps)
        self._sources = sources

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = Session(self.bundle, self._opened())
            self.facts = {"onnxruntime-qnn": self._version()}
        return self._session

    def tapped(self) -> EngineBackend:
        return self if self._taps else StaticBackend(self.bundle, self.threads, taps=True, sources=self._sources)

    def _opened(self) -> Engine:
        version = choose(self.bundle, "onnx")[1]
        return TappedEngine(self.bundle, version=version, threads=self.threads, taps=self._taps, sources=self._sources)

    def _version(self) -> str:
        found = qnn_sessions.installed()
        return "none" if self._sources or found is None else found[0]

    def _open_forced(self) -> tuple[Engine, str | None]:
        return self._opened(), None
