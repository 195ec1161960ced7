"""ExecuTorch's stock Python binding, for machines on which the native library cannot be built.

The binding takes and returns torch tensors and links libtorch, which exporting needs anyway. The runtime knows this module by
its entry point alone (`dgemma.executorch_bindings`), and loads it only where the native library is missing or `DGEMMA_NATIVE=0`
asks for the binding.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch  # first: the binding finds libtorch through it

from dgemma.core.errors import EngineError

_BINDING = "executorch.extension.pybindings."


class StockProgram:
    """One open `.pte`; `run` takes and returns arrays of NumPy, by position. Raises EngineError where it does not load."""

    def __init__(self, path: Path, threads: int | None) -> None:
        try:
            binding = import_module(_BINDING + "_C")
        except ImportError:  # the public module is the same, but imports the exporter as well: seconds
            binding = import_module(_BINDING + "portable_lib")
        self._methods: dict[str, Any] = {}
        with _native_log():
            if threads is not None and binding._threadpool_get_thread_count() != threads:
                binding._unsafe_reset_threadpool(threads)  # one pool for the whole process
            self._program = binding._load_program(
                str(path),
                enable_etdump=False,
                debug_buffer_size=0,
                program_verification=binding.Verification.InternalConsistency,
                data_path=None,
            )

    def has(self, method: str) -> bool:
        return method in [self._program.get_method_name(i) for i in range(self._program.num_methods())]

    def load(self, method: str, inputs: int, outputs: int) -> None:
        with _native_log():
            self._methods[method] = self._program.load_method(method)

    def run(self, method: str, arrays: Sequence[Any]) -> Sequence[Any]:
        return [tensor.numpy() for tensor in self._methods[method]([torch.from_numpy(array) for array in arrays])]

    def close(self) -> None:
        self._methods.clear()
        self._program = None


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
