"""ExecuTorch through its stock Python binding, which links torch: imported when this engine is asked for, never before."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

from dgemma.core.errors import EngineError
from dgemma.core.manifest import GraphSpec
from dgemma.runtime.engines.base import Array, Engine, Feeds

_BINDING = "executorch.extension.pybindings."


class ExecutorchEngine(Engine):
    """Methods of one `.pte`; inputs and outputs go by position, in the order of the manifest."""

    name: ClassVar[str] = "executorch"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._programs: dict[str, Any] = {}
        self._methods: dict[str, tuple[Any, list[str]]] = {}
        self._from_numpy: Any = None

    def _program(self, file: str) -> Any:
        if file not in self._programs:
            import torch  # first: the binding finds libtorch through it

            try:
                binding = import_module(_BINDING + "_C")
            except ImportError:  # the public module is the same, but imports the exporter as well: seconds
                binding = import_module(_BINDING + "portable_lib")
            if self.threads is not None and binding._threadpool_get_thread_count() != self.threads:
                binding._unsafe_reset_threadpool(self.threads)  # one pool for the whole process
            self._from_numpy = torch.from_numpy
            self._programs[file] = binding._load_program(
                str(self.bundle.file(file)), enable_etdump=False, debug_buffer_size=0,
                program_verification=binding.Verification.InternalConsistency, data_path=None,
            )  # fmt: skip
        return self._programs[file]

    def _load(self, graph: str, spec: GraphSpec) -> None:
        method = spec.method or graph
        with _native_log():
            program = self._program(spec.file)
            if method not in [program.get_method_name(i) for i in range(program.num_methods())]:
                raise EngineError(f"{self.bundle.path / spec.file}: has no method {method!r}; export the bundle again")
            self._methods[graph] = (program.load_method(method), [t.name for t in spec.inputs])

    def _call(self, graph: str, feeds: Feeds) -> Sequence[Array]:
        method, inputs = self._methods[graph]
        return [tensor.numpy() for tensor in method([self._from_numpy(feeds[name]) for name in inputs])]

    def close(self) -> None:
        super().close()
        self._methods.clear()
        self._programs.clear()


@contextmanager
def _native_log() -> Iterator[None]:
    """Keep what the library writes to stderr while it loads off the terminal; an error carries its last line."""
    try:
        saved = os.dup(2)
    except OSError:  # this process has no stderr
        yield
        return
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except RuntimeError as error:
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines() or [""]
            raise EngineError(f"executorch cannot load this: {error} {lines[-1]}".replace("\n", " ")[:400]) from error
        finally:
            os.dup2(saved, 2)
            os.close(saved)
