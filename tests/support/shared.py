"""Bundles that all workers of one test run share: whoever asks first exports, the others wait for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dgemma.runtime import cache

_FOLDER = "DGEMMA_TEST_BUNDLES"


def begin(session: pytest.Session, factory: pytest.TempPathFactory) -> None:
    """Name the folder of this run; a worker's temporary folder lies in that of the run."""
    base = factory.getbasetemp()
    os.environ[_FOLDER] = str((base.parent if hasattr(session.config, "workerinput") else base) / "bundles")


def bundle(name: str, export: Callable[[Path], Path]) -> Path:
    """The bundle `name`, made by `export` at the path that it is given unless another test did so before."""
    folder = Path(os.environ[_FOLDER])
    folder.mkdir(exist_ok=True)
    place = folder / f"{name}.dgemma"
    with cache.exclusive(place):
        return place if place.exists() else export(place)
