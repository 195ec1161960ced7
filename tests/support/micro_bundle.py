"""Bundles of the micro model, one engine and recipe each, exported once a run.

DGEMMA_MICRO_BUNDLES names a folder of bundles ENGINE-RECIPE.dgemma that were exported before.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import micro
import shared

from dgemma.export.pipeline import export_bundle
from dgemma.export.quiet import quiet
from dgemma.quantize.recipes import find
from dgemma.verify import golden

_ROOT = TemporaryDirectory(prefix="dgemma-micro-")  # removed when the tests end


def root() -> str:
    """A folder of this process, removed when the tests end."""
    return _ROOT.name


@cache
def checkpoint() -> Path:
    return micro.save(Path(mkdtemp(dir=_ROOT.name)) / "micro")


def export(engine: str, recipe: str = "fp32") -> Path:
    """A fresh bundle, golden trajectories included."""
    return export_of(checkpoint(), Path(mkdtemp(dir=_ROOT.name)) / f"{engine}-{recipe}.dgemma", engine, recipe)


def export_of(folder: Path, out: Path, engine: str, recipe: str) -> Path:
    """A bundle of a checkpoint without a tokenizer, golden trajectories included."""

    def finish(stage: Path) -> None:
        golden.write(stage, folder, [])

    with quiet():
        return export_bundle(folder, out, engines=(engine,), recipe=recipe, finish=finish)


@cache
def bundle(engine: str, recipe: str = "fp32") -> Path:
    if given := os.environ.get("DGEMMA_MICRO_BUNDLES"):
        return Path(given).resolve() / f"{engine}-{recipe}.dgemma"
    return shared.bundle(f"micro-{engine}-{recipe}", lambda out: export_of(checkpoint(), out, engine, recipe))


@cache
def four_bits() -> Path:
    """For ONNX Runtime, every matrix in groups of four bits, the MLP's rotated."""
    path = Path(_ROOT.name) / "four.json"
    path.write_text(json.dumps({**find("w4-all").to_dict(), "name": "four", "group": 16, "rotation": 16}))
    return shared.bundle("micro-onnx-four", lambda out: export_of(checkpoint(), out, "onnx", str(path)))
