"""ONNX Runtime on the CPU: one inference session per graph file, weights read from the external file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from dgemma.core.errors import EngineError
from dgemma.core.manifest import GraphSpec
from dgemma.runtime.engines.base import Array, Engine, Feeds

_FATAL = 4  # severity; errors arrive as exceptions, so the library has nothing to print


class OnnxEngine(Engine):
    name: ClassVar[str] = "onnx"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._files: dict[str, Any] = {}
        self._runs: dict[str, tuple[Any, list[str]]] = {}

    def options(self) -> Any:
        """Session options of all graphs."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        # Every file has a thread pool; one that spins on after its run takes the cores from the next one's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Folds DequantizeLinear of constants: int8 weights are made of stored int4 once, when a session opens.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        return options

    def open(self, file: str) -> Any:
        """A new inference session of one graph file."""
        import onnxruntime as ort

        return ort.InferenceSession(str(self.bundle.file(file)), self.options(), providers=["CPUExecutionProvider"])

    def _session(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = self.open(file)
        return self._files[file]

    def _load(self, graph: str, spec: GraphSpec) -> None:
        session = self._session(spec.file)
        needed, optional = ({t.name for t in ts} for ts in (session.get_inputs(), session.get_overridable_initializers()))
        inputs, outputs = {t.name for t in spec.inputs}, {t.name for t in session.get_outputs()}
        if not needed <= inputs <= needed | optional or not outputs >= {t.name for t in spec.outputs}:
            raise EngineError(f"{self.bundle.path / spec.file}: its inputs or outputs are not those of the manifest")
        self._runs[graph] = (session, [t.name for t in spec.outputs])

    def _call(self, graph: str, feeds: Feeds) -> Sequence[Array]:
        session, outputs = self._runs[graph]
        arrays: Sequence[Array] = session.run(outputs, feeds)
        return arrays

    def close(self) -> None:
        super().close()
        self._runs.clear()
        self._files.clear()
