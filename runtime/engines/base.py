"""What all engines share: graphs loaded once, feeds checked before native code sees them, native time counted."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dgemma.core.errors import BundleError, EngineError
from dgemma.core.manifest import GraphSpec
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.signals import raised_in_handler

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
log = logging.getLogger(__name__)


class IndexOutOfBounds(EngineError):
    """A graph looked up an index that its table does not have."""


class _Signature:
    """A graph's inputs and outputs, compiled for checks that cost microseconds."""

    def __init__(self, graph: str, spec: GraphSpec, dims: dict[str, tuple[int, int]]) -> None:
        self.graph, self.dims = graph, dims
        try:
            self.inputs = {t.name: (np.dtype(t.dtype), t.shape) for t in spec.inputs}
            self.outputs = {t.name: (np.dtype(t.dtype), len(t.shape)) for t in spec.outputs}
        except TypeError as error:
            raise BundleError(f"{spec.file}: graph {graph!r} has an unknown dtype ({error}); export it again") from None
        self.seen: Feeds = {}
        self.outputs_checked = False

    def check_feeds(self, feeds: Feeds) -> None:
        """Names, dtypes, shapes and layout; raises EngineError, for native code may crash instead.

        An array that was checked in the call before is not checked again, unless one of an open size is new: sizes
        must agree.
        """
        if feeds.keys() != self.inputs.keys():
            wrong = sorted(feeds.keys() ^ self.inputs.keys())[0]
            raise EngineError(f"graph {self.graph!r}: input {wrong!r} is missing or unknown")
        seen, self.seen = self.seen, {}
        sizes: dict[str, int] = {}
        for name, array in feeds.items():
            if array is not seen.get(name):
                self._check(name, array, sizes)
        if sizes:
            for name, array in feeds.items():
                self._check(name, array, sizes)
        for dim, size in sizes.items():
            low, high = self.dims.get(dim, (1, size))
            if not low <= size <= high:
                raise EngineError(f"graph {self.graph!r}: {dim} = {size} is outside {low}…{high}")
        self.seen = dict(feeds)

    def _check(self, name: str, array: Array, sizes: dict[str, int]) -> None:
        dtype, shape = self.inputs[name]
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != len(shape):
            raise EngineError(f"graph {self.graph!r}: input {name!r} must be {dtype} of shape {list(shape)}")
        if not array.flags.c_contiguous:
            raise EngineError(f"graph {self.graph!r}: input {name!r} must be contiguous")
        for want, size in zip(shape, array.shape, strict=True):
            expected = sizes.setdefault(want, size) if isinstance(want, str) else want
            if size != expected:
                raise EngineError(f"graph {self.graph!r}: input {name!r} has {array.shape}, not {list(shape)}")

    def name_outputs(self, outputs: Sequence[Array]) -> Feeds:
        """Outputs by name; raises EngineError when the graph is not what the manifest says, seen on its first run."""
        named = dict(zip(self.outputs, outputs, strict=False))
        if not self.outputs_checked:
            if len(outputs) != len(self.outputs):
                raise EngineError(f"graph {self.graph!r}: gave {len(outputs)} outputs instead of {len(self.outputs)}")
            for name, (dtype, rank) in self.outputs.items():
                if named[name].dtype != dtype or named[name].ndim != rank:
                    raise EngineError(f"graph {self.graph!r}: output {name!r} is not {dtype} of rank {rank}")
            self.outputs_checked = True
        return named


class Engine(ABC):
    """One inference library over one bundle.

    Attributes:
        name: as in `--engine`.
        label: what runs, for people: the name, and an accelerator where one is used.
        version: of the library.
        seconds: time spent in native calls so far, without the loading of graphs.
    """

    name: ClassVar[str]

    def __init__(self, bundle: Bundle, *, version: str, threads: int | None = None) -> None:
        self.bundle, self.version, self.threads = bundle, version, threads
        self.label = self.name
        self.seconds = 0.0
        self._signatures: dict[str, _Signature] = {}

    def prepare(self, *graphs: str) -> None:
        """Load graphs that are not loaded yet; raises BundleError or EngineError."""
        for graph in graphs:
            if graph not in self._signatures:
                spec = self.bundle.graph(self.name, graph)
                signature = _Signature(graph, spec, self.bundle.manifest.dims)
                started = time.perf_counter()
                self._guard(graph, self._load, graph, spec)
                self._signatures[graph] = signature
                log.info("%s: graph %s of %s loaded in %.2f s", self.label, graph, spec.file, time.perf_counter() - started)

    def run(self, graph: str, feeds: Feeds) -> Feeds:
        """Run a graph on arrays by input name; outputs by output name, owned by the caller.

        Raises:
            EngineError: feeds that do not fit the graph, or whatever the library complains about.
        """
        if graph not in self._signatures:
            self.prepare(graph)
        signature = self._signatures[graph]
        signature.check_feeds(feeds)
        started = time.perf_counter()
        outputs = self._guard(graph, self._call, graph, feeds)
        self.seconds += time.perf_counter() - started
        return signature.name_outputs(outputs)

    def close(self) -> None:
        """Free the graphs; the engine must not run again."""
        self._signatures.clear()

    def _guard(self, graph: str, function: Any, *args: Any) -> Any:
        """Libraries raise many kinds of exceptions with long texts; one line of them reaches the user."""
        try:
            return function(*args)
        except (EngineError, BundleError):
            raise
        except Exception as error:
            if raised_in_handler(error):
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineError(f"{self.name} {self.version} failed on graph {graph!r}: {lines[0][:300]}") from error

    @abstractmethod
    def _load(self, graph: str, spec: GraphSpec) -> None: ...

    @abstractmethod
    def _call(self, graph: str, feeds: Feeds) -> Sequence[Array]:
        """Outputs in the order of the spec."""
