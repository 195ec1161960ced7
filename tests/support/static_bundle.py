"""A micro bundle with an NPU's graphs whose contexts were not compiled: enough for whatever compiles or runs their sources."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro_bundle
import onnx
import pytest
import shared

from dgemma.core.manifest import StaticGraph, list_files, read_manifest, write_manifest
from dgemma.export import pipeline
from dgemma.export.pipeline import export_bundle
from dgemma.export.qnn import checks, lower
from dgemma.export.quiet import quiet
from dgemma.runtime.engines import qnn_sessions
from dgemma.verify import golden

PLAIN = {"fp32": "fp32", "w8a16": "w8"}  # recipe → that of the same graphs for processors


def bundle(recipe: str) -> Path:
    return shared.bundle(f"micro-static-{recipe}", lambda out: export(micro_bundle.checkpoint(), out, recipe))


def export(checkpoint: Path, out: Path, recipe: str, *, compiled: bool = False) -> Path:
    plain = micro_bundle.bundle("onnx", PLAIN[recipe])

    def finish(stage: Path) -> None:
        shutil.copyfile(plain / golden.FILE, stage / golden.FILE)

    return beside(plain, checkpoint, out, recipe, finish, compiled=compiled)


def beside(
    plain: Path, checkpoint: Path, out: Path, recipe: str, finish: Callable[[Path], Any], *, compiled: bool = False
) -> Path:
    """A bundle with the graphs for processors of `plain`, which was exported from that checkpoint, and the NPU's sources;
    `finish` adds golden trajectories. With `compiled`, contexts are compiled."""
    manifest = read_manifest(plain)[0]

    def lowered(engine: str, request: Any, weights: Any, stage: Path, progress: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        shutil.copytree(plain / "onnx", stage / "onnx")
        return dict(manifest.graphs["onnx"]), {}

    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.setattr(pipeline, "lower", lowered)
        patch.setattr(checks, "MODULE", "numpy")
        patch.setattr(lower, "PACKAGE", "numpy")
        patch.setattr(lower, "qairt", lambda: (qnn_sessions.installed() or ("", "2.51.0"))[1])
        if not compiled:
            patch.setattr(lower.Chip, "compile", _uncompiled)
        return export_bundle(
            checkpoint, out, engines=("onnx",), recipe=recipe, target="qnn:SM8650", finish=finish, context=manifest.context
        )


def _uncompiled(chip: Any, groups: Sequence[Sequence[StaticGraph]], *_: Any) -> list[StaticGraph]:
    place = f"{lower.FOLDER}/{chip.name}"
    (chip.stage / place).mkdir()
    (chip.stage / place / "context.bin").write_bytes(b"none")
    found = [replace(g, file=f"{place}/{Path(str(g.source)).name}", binary=f"{place}/context.bin") for gs in groups for g in gs]
    for graph in found:
        (chip.stage / graph.file).write_bytes(b"none")
    return found


def edited(source: Path, out: Path, edit: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy of a bundle with its graphs of layers changed, and a manifest that says so."""
    shutil.copytree(source, out)
    for path in sorted((out / lower.FOLDER).glob("layers-*.onnx")):
        model = onnx.load(path, load_external_data=False)
        edit(model.graph)
        path.write_bytes(model.SerializeToString(deterministic=True))
    manifest, _ = read_manifest(source)
    write_manifest(out, replace(manifest, files=list_files(out)))
    return out
