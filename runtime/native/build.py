"""Finds the native libraries in the cache, or builds them there if there is a C++ compiler.

There are two: ExecuTorch over the wheel's headers and libraries, and the operators of quantized mixtures of experts for ONNX
Runtime, which need neither. An entry is keyed by the sources, the processor's architecture and the executorch wheel (version
and place, which the library remembers). A failed build is remembered with its reason and not tried again. For Linux and macOS;
tried only on Linux.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from dgemma.core import compiler
from dgemma.core.errors import EngineError
from dgemma.runtime import cache

_HERE = Path(__file__).parent
_KERNELS = (
    *("api.h", "parallel.h", "kernels_of.h"),
    *(f"experts/{name}" for name in ("experts.h", "experts.cpp", "kernel.h", "lanes.h", "portable.cpp", "x86.cpp", "arm.cpp")),
    *(f"attention/{name}" for name in ("attention.h", "attention.cpp", "kernel.h", "kernel.inc")),
    *(f"attention/{name}" for name in ("portable.cpp", "x86.cpp", "arm.cpp")),
)
EXPERTS = tuple(_HERE / name for name in (*_KERNELS, "onnx/onnx.h", "onnx/onnx.cpp", "experts/onnx.cpp", "attention/onnx.cpp"))
SOURCES = tuple(
    _HERE / name
    for name in (
        *("dgemma_executorch.h", "thread_pool.h", "dgemma_executorch.cpp"),
        *(*_KERNELS, "kernels.h", "experts/executorch.cpp", "attention/executorch.cpp"),
    )
)
LIBRARIES = ("executorch_kernels_optimized", "executorch_backend_xnnpack", "executorch_threadpool", "executorch")
# Contracted operations would give the kernels for experts different bits.
_FLAGS = ("-O2", "-w", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-pthread")
SWITCH = "DGEMMA_NATIVE"
_BUILD_S = 300


class Unavailable(EngineError):
    """The native library cannot be used here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """A library and how it is built.

    Args:
        name: of its entry, and of its file after `libdgemma_`.
        sources: what it is made of, headers too.
        command: (target, compiler) → the command that builds it.
    """

    name: str
    sources: tuple[Path, ...]
    command: Callable[[Path, str], list[str]]

    @property
    def file(self) -> str:
        return f"libdgemma_{self.name.partition('-')[0]}" + (".dylib" if sys.platform == "darwin" else ".so")


def state() -> tuple[bool, str]:
    """(whether the native ExecuTorch library will be used, what there is to say of it); builds nothing."""
    return _state(_executorch)


def experts_state() -> tuple[bool, str]:
    """The same of the library of the experts' operator."""

    def named() -> Library:
        _check_machine()
        return _experts()

    return _state(named)


def _state(find: Callable[[], Library]) -> tuple[bool, str]:
    try:
        place = _place(find())
        if (failed := place / "failed.txt").is_file():
            return False, _remembered(failed)
        return True, "native" if cache.sound(place) else "native, built at first use"
    except Unavailable as error:
        return False, str(error)


def library() -> Path:
    """Path of the native ExecuTorch library, built if it has to be; raises Unavailable."""
    return _ready(_executorch())


def experts() -> Path:
    """Path of the library of the experts' operator, built if it has to be; raises Unavailable."""
    _check_machine()
    return _ready(_experts())


def _experts() -> Library:
    return Library(name="experts", sources=EXPERTS, command=experts_command)


def _ready(library: Library) -> Path:
    place = _place(library)
    try:
        with cache.exclusive(place):
            if not cache.sound(place):
                _build(place, library)
    except OSError as error:
        raise Unavailable(f"{cache.folder()} cannot be written: {error.strerror or error}") from None
    if (failed := place / "failed.txt").is_file():
        raise Unavailable(_remembered(failed))
    return place / library.file


def command(root: Path, target: Path, compiler: str, machine: str = sys.platform) -> list[str]:
    """The command that compiles and links the native ExecuTorch library `target` against the wheel in `root`."""
    headers, libraries = root / "include", root / "lib"
    register = [] if machine == "darwin" else ["-Wl,--no-as-needed"]  # nothing refers to what only registers itself
    return [
        compiler,
        "-std=c++20",
        *_FLAGS,
        "-DC10_USING_CUSTOM_GENERATED_MACROS",
        f"-I{headers}",
        f"-I{headers}/executorch/runtime/core/portable_type/c10",
        *_units(SOURCES),
        "-o",
        str(target),
        f"-L{libraries}",
        f"-Wl,-rpath,{libraries}",
        *register,
        *(f"-l{name}" for name in LIBRARIES),
    ]


def experts_command(target: Path, compiler: str) -> list[str]:
    """The command that builds the experts' operator for ONNX Runtime."""
    return [compiler, "-std=c++17", *_FLAGS, *_units(EXPERTS), "-o", str(target)]


def _units(sources: tuple[Path, ...]) -> list[str]:
    return [str(path) for path in sources if path.suffix == ".cpp"]


def wheel() -> Path:
    """Folder of the installed executorch package, which is not imported; raises Unavailable."""
    found = util.find_spec("executorch")
    for place in (found.submodule_search_locations or ()) if found else ():
        root = Path(place)
        if (root / "include/executorch/extension/module/module.h").is_file() and (root / "lib").is_dir():
            return root
    raise Unavailable("the installed executorch has no C++ headers and libraries")


def _executorch() -> Library:
    if os.environ.get(SWITCH) == "0":
        raise Unavailable(f"{SWITCH}=0")
    _check_machine()
    root = wheel()
    name = f"executorch-{metadata.version('executorch')}"
    return Library(name=name, sources=SOURCES, command=lambda target, compiler: command(root, target, compiler))


def _check_machine() -> None:
    if sys.platform == "win32":
        raise Unavailable("the native library does not support Windows")
    if not cache.enabled():
        raise Unavailable("DGEMMA_CACHE=off leaves no place for it")


def _place(library: Library) -> Path:
    """The entry of a library for this machine; raises Unavailable when it could neither be used nor built."""
    built = library.command(Path(library.file), "c++")  # names the wheel's place
    text = [*built, platform.machine(), sys.platform, *(path.read_text() for path in library.sources)]
    key = hashlib.sha256("\0".join(text).encode()).hexdigest()[:16]
    place = cache.folder() / f"native-{library.name}-{platform.machine()}-{key}"
    if not cache.sound(place):
        _compiler()
    return place


def _compiler() -> str:
    if found := compiler.find():
        return found
    raise Unavailable(f"no C++ compiler ({', '.join(compiler.names())}) is installed")


def _build(place: Path, library: Library) -> None:
    """Compile into the entry, or leave the reason of a failure there; raises OSError, Unavailable."""
    found = _compiler()
    with cache.building(place) as work:
        try:
            command = library.command(work / library.file, found)
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_BUILD_S)
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
            reason = (errors or [f"exit status {done.returncode}"])[0] if done.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"it took more than {_BUILD_S} s"
        if reason:
            shutil.rmtree(work)
            work.mkdir()
            (work / "failed.txt").write_text(f"{found} could not build it: {reason[:200]}")


def _remembered(failed: Path) -> str:
    return f"{failed.read_text().strip()}; to try again delete {failed.parent}"
