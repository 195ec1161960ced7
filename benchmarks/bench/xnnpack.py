"""ExecuTorch's products to be timed: each is a program of that product alone, lowered as bundles are.

Such a program is made by `dgemma.export.executorch.product` in a process of its own, for that takes torch, and kept in the
cache by shape, versions and what the exporter's sources are. It runs through the native library: the stock binding has the
same kernels, and torch to load. The int4 product has groups of 128, as the recipes that are shipped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path

import numpy as np

import dgemma
from dgemma.core.errors import EngineError
from dgemma.core.install import pip_install
from dgemma.runtime import cache
from dgemma.runtime.native import build
from dgemma.runtime.native.binding import Program

EXPORTER = "dgemma.export.executorch.product"
Shape = tuple[int, int, int, int]  # rows, inner, outer, copies


def products(forms: Collection[str], shape: Shape, threads: int) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """A call for each form, int8, int4 or float32, and why a form has none."""
    found: dict[str, Callable[[], object]] = {}
    missing: dict[str, str] = {}
    for form in forms:
        try:
            found[form] = _loaded(build.library(), _program(form, shape), shape, threads)
        except build.Unavailable as error:
            missing[form] = f"needs the native executorch library: {error}"
        except (EngineError, RuntimeError) as error:
            missing[form] = str(error)
        except OSError as error:
            missing[form] = f"its program cannot be kept in {cache.folder()} ({error.strerror or error})"
    return found, missing


def _loaded(library: Path, file: Path, shape: Shape, threads: int) -> Callable[[], object]:
    rows, inner, _, copies = shape
    x = np.random.default_rng(1).standard_normal((1, rows, inner), dtype=np.float32)
    program = Program(library, file, threads=threads)
    program.load("forward", 1, copies)
    program.run("forward", [x])  # a kernel that refuses is missing
    return lambda: program.run("forward", [x])


def _program(form: str, shape: Shape) -> Path:
    """The `.pte`, made if it is not kept, in place of those of other versions; raises EngineError and OSError."""
    folder = Path(dgemma.__file__).parent / "export" / "executorch"
    sources = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()[:12]
    stem = f"product-{form}-{'x'.join(map(str, shape))}"
    place = cache.folder() / f"{stem}-executorch-{metadata.version('executorch')}-{sources}"
    file = place / "product.pte"
    with cache.exclusive(place):
        if not cache.sound(place):
            with cache.building(place) as work:
                _export(work / file.name, form, shape)
            for other in cache.folder().glob(f"{stem}-*"):
                if other.is_dir() and other != place:
                    shutil.rmtree(other, ignore_errors=True)
    return file


def _export(file: Path, form: str, shape: Shape) -> None:
    command = [sys.executable, "-m", EXPORTER, str(file), form, *map(str, shape)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if last.startswith("ModuleNotFoundError"):
            raise EngineError(f"needs the export extra; {pip_install('export')}")
        raise EngineError(f"its program cannot be built: {last[:200]}")
