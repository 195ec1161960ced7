"""What all workers of one test run share, bundles and the native library: whoever asks first makes it, the others wait."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dgemma.runtime import cache
from dgemma.runtime.native import build

_FOLDER = "DGEMMA_TEST_BUNDLES"


def begin(session: pytest.Session, factory: pytest.TempPathFactory) -> None:
    """Name the folder of this run, unless several runs share one; a worker's temporary folder lies in that of the run."""
    base = factory.getbasetemp()
    os.environ.setdefault(_FOLDER, str((base.parent if hasattr(session.config, "workerinput") else base) / "bundles"))


def bundle(name: str, export: Callable[[Path], Path]) -> Path:
    """The bundle `name`, made by `export` at the path that it is given unless another test did so before."""
    folder = Path(os.environ[_FOLDER])
    folder.mkdir(exist_ok=True)
    place = folder / f"{name}.dgemma"
    with cache.exclusive(place):
        return place if place.exists() else export(place)


def native_library() -> Path:
    """The native ExecuTorch library, in a cache of this run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGEMMA_CACHE", str(Path(os.environ[_FOLDER]) / "native"))
        patch.delenv("DGEMMA_NATIVE", raising=False)
        return build.library()


def native_cache(folder: Path) -> Path:
    """A cache that holds the native library already."""
    entry = native_library().parent
    shutil.copytree(entry, folder / entry.name)
    return folder
