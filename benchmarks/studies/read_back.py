"""A bundle's Core ML methods as they are in its files, computed with numpy: an engine for studies and tests.

Values are float16 after every operator, sums inside one are float32; a device may do both otherwise. It says nothing of speed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from dgemma.core.accelerators import COREML
from dgemma.core.errors import EngineError
from dgemma.core.manifest import StaticGraph
from dgemma.export.delegates import coreml, mil, package
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import choose
from dgemma.runtime.engines.base import Feeds
from dgemma.runtime.engines.static import StaticEngine


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a method calls, the function behind it, and the names of that."""

    call: package.Call
    function: mil.Function
    place: package.CoreMLFunction


class ReadBackEngine(StaticEngine):
    """Raises EngineError where the bundle has no methods for Core ML."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        if COREML not in bundle.manifest.targets:
            raise EngineError(f"{bundle.path}: was exported without target {COREML!r}; export it again with --target {COREML}")
        self.methods: dict[str, Method] = {}
        self._kept = ExitStack()
        super().__init__(bundle, bundle.manifest.targets[COREML], version=choose(bundle, "onnx")[1], threads=threads)

    def _prepare(self) -> str:
        for name in sorted({g.file for g in self.spec.graphs}):
            file = package.PteFile(self.bundle.file(name))
            calls = {}
            for method, (call, *_) in file.calls().items():
                assert isinstance(call, package.Call)
                calls[method] = call
            folder, places = self._kept.enter_context(package.unpacked(file, calls))
            _, functions = mil.read(folder / coreml.MODEL, folder / coreml.WEIGHTS)
            for method, call in calls.items():
                self.methods[method] = Method(call=call, function=functions[places[method].name], place=places[method])
        return "coreml (read back)"

    def _native(self, graph: StaticGraph, feeds: Feeds) -> Feeds:
        assert graph.method and graph.inputs and graph.outputs
        method = self.methods[graph.method]
        place, call = method.place, method.call
        given = {own: feeds[graph.inputs[i].name] for own, i in zip(place.inputs, call.inputs, strict=True)}
        got = method.function.run(given)
        found = {graph.outputs[i].name: got[own] for own, i in zip(place.outputs, call.outputs, strict=True)}
        return {t.name: found[t.name] for t in graph.outputs}

    def close(self) -> None:
        super().close()
        self._kept.close()
