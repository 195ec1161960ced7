"""Finds the native ExecuTorch library in the cache, or builds it there where the wheel's headers and a C++ compiler are.

An entry is keyed by the executorch wheel (version and place, which the library remembers), the sources and the processor's
architecture. A build that failed is remembered with its reason and not tried again. Linux and macOS; only Linux has been tried.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

from dgemma.core.errors import EngineError
from dgemma.runtime import cache

SOURCES = tuple(Path(__file__).with_name(name) for name in ("dgemma_executorch.h", "dgemma_executorch.cpp"))
LIBRARIES = ("executorch_kernels_optimized", "executorch_backend_xnnpack", "executorch_threadpool", "executorch")
_COMPILERS = ("c++", "g++", "clang++")
SWITCH = "DGEMMA_NATIVE"
_BUILD_S = 300


class Unavailable(EngineError):
    """The native library cannot be used here; the message says why."""


def state() -> tuple[bool, str]:
    """(whether the native library will be used, what there is to say of it); builds nothing."""
    try:
        place = _place()
        if (failed := place / "failed.txt").is_file():
            return False, _remembered(failed)
        return True, "native" if cache.sound(place) else "native, built at first use"
    except Unavailable as error:
        return False, str(error)


def library() -> Path:
    """Path of the shared library, built if it has to be; raises Unavailable."""
    place = _place()
    try:
        with cache.exclusive(place):
            if not cache.sound(place):
                _build(place)
    except OSError as error:
        raise Unavailable(f"{cache.folder()} cannot be written: {error.strerror or error}") from None
    if (failed := place / "failed.txt").is_file():
        raise Unavailable(_remembered(failed))
    return place / _name()


def command(root: Path, target: Path, compiler: str, machine: str = sys.platform) -> list[str]:
    """The command that compiles and links `target` against the wheel in `root`."""
    headers, libraries = root / "include", root / "lib"
    register = [] if machine == "darwin" else ["-Wl,--no-as-needed"]  # nothing refers to what only registers itself
    return [
        compiler, "-std=c++20", "-O2", "-w", "-fPIC", "-shared", "-fvisibility=hidden", "-DC10_USING_CUSTOM_GENERATED_MACROS",
        f"-I{headers}", f"-I{headers}/executorch/runtime/core/portable_type/c10", str(SOURCES[1]), "-o", str(target),
        f"-L{libraries}", f"-Wl,-rpath,{libraries}", *register, *(f"-l{name}" for name in LIBRARIES),
    ]  # fmt: skip


def wheel() -> Path:
    """Folder of the installed executorch package, which is not imported; raises Unavailable."""
    found = util.find_spec("executorch")
    for place in (found.submodule_search_locations or ()) if found else ():
        root = Path(place)
        if (root / "include/executorch/extension/module/module.h").is_file() and (root / "lib").is_dir():
            return root
    raise Unavailable("the installed executorch has no C++ headers and libraries")


def _name() -> str:
    return "libdgemma_executorch" + (".dylib" if sys.platform == "darwin" else ".so")


def _place() -> Path:
    """The entry of this library, wheel and machine; raises Unavailable when it could neither be used nor built."""
    if os.environ.get(SWITCH) == "0":
        raise Unavailable(f"{SWITCH}=0")
    if sys.platform == "win32":
        raise Unavailable("the native library is not made for Windows")
    if not cache.enabled():
        raise Unavailable("DGEMMA_CACHE=off leaves no place for it")
    root = wheel()
    version = metadata.version("executorch")
    text = [str(root), version, platform.machine(), sys.platform, *(path.read_text() for path in SOURCES)]
    key = hashlib.sha256("\0".join(text).encode()).hexdigest()[:16]
    place = cache.folder() / f"native-executorch-{version}-{platform.machine()}-{key}"
    if not cache.sound(place):
        _compiler()
    return place


def _compiler() -> str:
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else _COMPILERS:
        if found := shutil.which(name):
            return found
    raise Unavailable(f"no C++ compiler ({chosen or ', '.join(_COMPILERS)}) is installed")


def _build(place: Path) -> None:
    """Compile into the entry, or leave the reason of a failure there; raises OSError, Unavailable."""
    compiler = _compiler()
    with cache.building(place) as work:
        try:
            done = subprocess.run(
                command(wheel(), work / _name(), compiler), capture_output=True, text=True, errors="replace", timeout=_BUILD_S
            )
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
            reason = (errors or [f"exit status {done.returncode}"])[0] if done.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"it took more than {_BUILD_S} s"
        if reason:
            shutil.rmtree(work)
            work.mkdir()
            (work / "failed.txt").write_text(f"{compiler} could not build it: {reason[:200]}")


def _remembered(failed: Path) -> str:
    return f"{failed.read_text().strip()}; to try again delete {failed.parent}"
