"""ONNX Runtime on the CPU: one inference session per graph file, with weights from the external file beside it.

Large packed weights are kept on this machine and mapped (`packed.py`); DGEMMA_CACHE=off disables that. Integer products are
exact on every processor (`exact_products.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from dgemma.core.errors import EngineError
from dgemma.core.manifest import GraphSpec, Manifest
from dgemma.core.shapes import parameter_shapes
from dgemma.runtime import cache
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import exact_products, release
from dgemma.runtime.engines.base import Array, Engine, Feeds, IndexOutOfBounds
from dgemma.runtime.engines.packed import GROWTH, Packed, save_session
from dgemma.runtime.engines.sessions import open_session, session_options

CACHE_FROM = 64 << 20  # bytes of weights; fewer are packed in a tenth of a second
# Older ones (1.23.2, 1.29.0) save graphs with branches that they cannot open again, and float weights that they crash on.
CACHE_SINCE = (1, 32)
_OUT_OF_BOUNDS = "indices element out of data bounds"  # what its Gather says
_WEIGHTS = "onnx/weights.bin"


def kept(bundle: Bundle, version: str) -> dict[str, Packed]:
    """Graph file → its packed weights in the cache, there or not; nothing for bundles whose weights are not worth it."""
    known = bundle.manifest.files.get(_WEIGHTS)
    if not cache.enabled() or known is None or known.size < CACHE_FROM or release(version) < CACHE_SINCE:
        return {}
    kind = "onnx-unsigned" if exact_products.saturates() else "onnx"  # not what was kept before products were exact
    experts = min(_experts_bytes(bundle.manifest), known.size)
    room = experts + GROWTH * (known.size - experts)
    folder, found = cache.entry(bundle.digest, kind, version), dict[str, Packed]()
    for file in dict.fromkeys(spec.file for spec in bundle.manifest.graphs["onnx"].values()):
        first = next(iter(found.values())).place if found else None
        found[file] = Packed(folder / Path(file).stem, first, room)
    return found


def _experts_bytes(manifest: Manifest) -> int:
    """Bytes of routed experts' weights, which our operator reads as they are, so that nothing packs them."""
    bits = (manifest.quantization.get("bits") or {}).get("experts", 32)
    shapes = parameter_shapes(manifest.model).items() if bits < 32 else ()
    return sum(math.prod(shape) * bits // 8 for name, shape in shapes if ".experts." in name)


class OnnxEngine(Engine):
    name: ClassVar[str] = "onnx"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._files: dict[str, Any] = {}
        self._runs: dict[str, tuple[Any, list[str]]] = {}

    def options(self) -> Any:
        """Session options of all graphs."""
        options = session_options(self.threads)
        # Every file has a thread pool; one that spins on after its run takes the cores from the next one's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Folds DequantizeLinear of constants: int8 weights are made of stored int4 once, when a session opens.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options

    def open(self, file: str) -> Any:
        """A new inference session of one graph file, over packed weights that are kept where that is worth it."""
        path = self.bundle.file(file)
        packed = kept(self.bundle, self.version).get(file)
        if packed is not None and packed.make(lambda out: save_session(path, out, self.options())):
            session = packed.open(self.options())
            if session is not None:
                return session
        return open_session(path, self.options())

    def _session(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = self.open(file)
        return self._files[file]

    def _load(self, graph: str, spec: GraphSpec) -> None:
        session = self._session(spec.file)
        needed, optional = ({t.name for t in ts} for ts in (session.get_inputs(), session.get_overridable_initializers()))
        inputs, outputs = {t.name for t in spec.inputs}, {t.name for t in session.get_outputs()}
        if not needed <= inputs <= needed | optional or not outputs >= {t.name for t in spec.outputs}:
            raise EngineError(
                f"{self.bundle.path / spec.file}: its inputs or outputs are not those in the manifest; export the bundle again"
            )
        self._runs[graph] = (session, [t.name for t in spec.outputs])

    def _call(self, graph: str, feeds: Feeds) -> Sequence[Array]:
        session, outputs = self._runs[graph]
        try:
            arrays: Sequence[Array] = session.run(outputs, feeds)
        except Exception as error:
            if _OUT_OF_BOUNDS in str(error):
                raise IndexOutOfBounds(f"onnx {self.version} looked up an index out of bounds in graph {graph!r}") from error
            raise
        return arrays

    def close(self) -> None:
        super().close()
        self._runs.clear()
        self._files.clear()
