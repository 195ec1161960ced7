"""Static graphs on a Snapdragon NPU, or in its emulator. `static.py` computes what surrounds them."""

from __future__ import annotations

import warnings
from typing import Any

from dgemma.core.accelerators import QNN, name_of
from dgemma.core.errors import DgemmaWarning, EngineError
from dgemma.core.manifest import StaticGraph, TargetSpec
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import qnn_sessions
from dgemma.runtime.engines.base import Feeds
from dgemma.runtime.engines.static import StaticEngine


def choose_target(bundle: Bundle, target: str) -> TargetSpec:
    """What a bundle holds for `qnn` or `qnn:CHIP`; raises EngineError where it is nothing, or where a chip has to be named."""
    held = {name: spec for name, spec in bundle.manifest.targets.items() if name.startswith(f"{QNN}:")}
    if not held:
        raise EngineError(f"{bundle.path}: was exported without contexts for an NPU; export it again with --target qnn:CHIP")
    if target != QNN:
        if target not in held:
            raise EngineError(f"{bundle.path}: has no contexts for {target!r} (it has: {', '.join(held)}); choose one of these")
        return held[target]
    if len(held) > 1 and not qnn_sessions.is_emulated():
        raise EngineError(
            f"{bundle.path}: has contexts for several chips; name the one in this machine: --target {' or '.join(held)}"
        )
    return next(iter(held.values()))


class QnnEngine(StaticEngine):
    """`target`: qnn, or qnn:CHIP where the bundle has contexts for several."""

    def __init__(self, bundle: Bundle, *, version: str, threads: int | None = None, target: str = QNN) -> None:
        self._sessions: dict[StaticGraph, Any] = {}
        super().__init__(bundle, choose_target(bundle, target), version=version, threads=threads)

    def _prepare(self) -> str:
        """Check the package, and say where the graphs run; returns the label. Raises EngineError."""
        assert self.spec.chip is not None
        self.chip = self.spec.chip
        package = qnn_sessions.check(self.spec.versions.get("qairt", ""), str(self.bundle.path))
        self.emulated = qnn_sessions.is_emulated()
        if self.emulated:
            warnings.warn(
                f"this machine has no Snapdragon NPU, so {name_of(self.chip)} runs in the emulator of "
                f"{qnn_sessions.PACKAGE} {package}, which takes seconds per step; its speed says nothing about the NPU's",
                DgemmaWarning,
                stacklevel=5,
            )
        return f"onnx/qnn ({'emulated ' if self.emulated else ''}{self.chip})"

    def _open(self, graph: StaticGraph) -> Any:
        """A session of a graph; raises EngineError."""
        assert graph.source is not None
        path = self.bundle.file(graph.source if self.emulated else graph.file)
        return qnn_sessions.open_graph(path, self.spec.options, shared=not self.emulated, threads=self.threads)

    def close(self) -> None:
        super().close()
        self._sessions.clear()

    def _native(self, graph: StaticGraph, feeds: Feeds) -> Feeds:
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        session = self._sessions[graph]
        wanted = [t.name for t in session.get_inputs()]
        if set(wanted) != set(feeds):
            raise EngineError(
                f"{self.bundle.path / graph.file}: takes other inputs than this dgemma gives; export the bundle again"
            )
        return dict(zip([t.name for t in session.get_outputs()], session.run(None, feeds), strict=True))
