"""ExecuTorch: through the native library of this package where it can be built, else through the stock Python binding.

The native library needs no torch, packs weights once for all methods, and maps them from the cache when the program is large.
The stock binding links torch, packs per method and has no cache; what exports a bundle brings it, as an entry point. Which of
the two runs is `Engine.variant`; DGEMMA_NATIVE=0 asks for the stock binding, 1 for the native library or an error.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from dgemma.core.errors import DgemmaWarning, EngineError
from dgemma.core.install import extra_with, pip_install
from dgemma.core.manifest import GraphSpec
from dgemma.runtime import cache
from dgemma.runtime.engines.base import Array, Engine, Feeds
from dgemma.runtime.native import build
from dgemma.runtime.native.binding import Program, load
from dgemma.runtime.native.packed import PackedProgram

NATIVE, STOCK = "native", "stock binding"
BINDINGS = "dgemma.executorch_bindings"  # the group of the stock binding's entry point
CACHE_FROM = 64 << 20  # bytes of a program from which on mapping packed weights beats packing them
_EXPERTS = b"dgemma::experts"
_CURE = "install a C++ compiler (Debian: apt-get install g++)"


class _Program(Protocol):
    """One open `.pte`, whichever library opened it."""

    def has(self, method: str) -> bool: ...
    def load(self, method: str, inputs: int, outputs: int) -> None: ...
    def run(self, method: str, arrays: Sequence[Array]) -> Sequence[Array]: ...
    def close(self) -> None: ...


def variant() -> str:
    """Which of the two would run here, and why if it is not the native one; builds and imports nothing."""
    if util.find_spec("executorch") is None:
        return "not installed"
    native, text = build.state()
    if native:
        return text
    return f"{STOCK} ({text})" if stock_is_installed() else f"cannot run: {text}"


class ExecutorchEngine(Engine):
    """Methods of one `.pte`; inputs and outputs go by position, in the order of the manifest.

    Attributes:
        variant: `native` or `stock binding`.
    """

    name: ClassVar[str] = "executorch"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._programs: dict[str, _Program] = {}
        self._methods: dict[str, tuple[_Program, str, list[str]]] = {}
        self._library = _native()
        self._stock = None if self._library else _stock()
        self.variant = NATIVE if self._library else STOCK

    def _program(self, file: str) -> _Program:
        if file not in self._programs:
            self._programs[file] = self._open(self.bundle.file(file))
        return self._programs[file]

    def _open(self, path: Path) -> _Program:
        if self._stock is not None:
            check_operators(path)
            return self._stock(path, self.threads)
        assert self._library is not None
        if not cache.enabled() or path.stat().st_size < CACHE_FROM:
            return Program(self._library, path, threads=self.threads)
        entry = cache.entry(self.bundle.digest, self.name, self.version)
        specs = self.bundle.manifest.graphs[self.name].items()
        methods = [spec.method or graph for graph, spec in specs if self.bundle.path / spec.file == path]
        return PackedProgram(self._library, path, entry, methods, threads=self.threads)

    def _load(self, graph: str, spec: GraphSpec) -> None:
        method, program = spec.method or graph, self._program(spec.file)
        if not program.has(method):
            raise EngineError(f"{self.bundle.path / spec.file}: has no method {method!r}; export the bundle again")
        program.load(method, len(spec.inputs), len(spec.outputs))
        self._methods[graph] = (program, method, [t.name for t in spec.inputs])

    def _call(self, graph: str, feeds: Feeds) -> Sequence[Array]:
        program, method, inputs = self._methods[graph]
        return program.run(method, [feeds[name] for name in inputs])

    def close(self) -> None:
        super().close()
        for program in self._programs.values():
            program.close()
        self._methods.clear()
        self._programs.clear()


def _native() -> Path | None:
    """The native library, or None with one warning where it cannot be built; raises EngineError if DGEMMA_NATIVE=1."""
    if os.environ.get(build.SWITCH) == "0":
        return None
    try:
        library = build.library()
        load(library)
        return library
    except build.Unavailable as error:
        if os.environ.get(build.SWITCH) == "1":
            raise EngineError(f"no native executorch engine: {error} ({build.SWITCH}=1 requires it)") from None
        if not stock_is_installed():
            raise EngineError(f"executorch cannot run here: {error}; {_CURE}, or torch: {_torch()}") from None
        warnings.warn(f"executorch runs through its {STOCK}, which loads more slowly: {error}", DgemmaWarning, stacklevel=4)
        return None


def stock_is_installed() -> bool:
    """Whether the stock binding would load, as far as can be told without importing torch."""
    return bool(metadata.entry_points(group=BINDINGS)) and util.find_spec("torch") is not None


def _stock() -> Callable[[Path, int | None], _Program]:
    """The stock binding's program; raises EngineError where it is not installed."""
    try:
        (point,) = metadata.entry_points(group=BINDINGS)
        return cast(Callable[[Path, int | None], _Program], point.load())
    except (ValueError, ImportError) as error:
        raise EngineError(
            f"executorch's {STOCK} is not installed ({error}): {_torch()}; or unset {build.SWITCH} and {_CURE}"
        ) from None


def _torch() -> str:
    return pip_install(extra_with("torch", "export"))


def check_operators(path: Path) -> None:
    """Raises EngineError where a program calls an operator that the native library alone has."""
    with path.open("rb") as file:
        beginning = file.read(32)
        file.seek(0)  # the program is ahead of its weights, and says how long it is
        size = int.from_bytes(beginning[16:24], "little") if beginning[8:12] == b"eh00" else 0
        if _EXPERTS in file.read(size):
            raise EngineError(
                f"{path}: a quantized mixture of experts runs only on the native library, which is not available "
                f"({build.state()[1]}); {_CURE}"
            )
