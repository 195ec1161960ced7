"""Stands in for lowering an engine, in another process too: says one stage, writes one file, and may go wrong."""

from __future__ import annotations

import os
from pathlib import Path

from dgemma.core.errors import CheckpointError
from dgemma.export.processes import Lowered
from dgemma.export.request import ExportRequest, Weights
from dgemma.export.stages import Progress, Reached


def lower(engine: str, request: ExportRequest, weights: Weights, stage: Path, progress: Progress) -> Lowered:
    progress(Reached(f"{engine}: weights", detail=str(os.getpid())))
    (stage / engine).write_text(str(sum(p.numel() for p in weights.model.parameters())))
    return {}, {"engine": engine}


def fails(engine: str, request: ExportRequest, weights: Weights, stage: Path, progress: Progress) -> Lowered:
    if engine == "executorch":
        raise CheckpointError(f"{request.folder}: cannot be lowered; choose another")
    return lower(engine, request, weights, stage, progress)


def dies(engine: str, request: ExportRequest, weights: Weights, stage: Path, progress: Progress) -> Lowered:
    if engine == "executorch":
        os._exit(7)
    return lower(engine, request, weights, stage, progress)


def first_fails(engine: str, request: ExportRequest, weights: Weights, stage: Path, progress: Progress) -> Lowered:
    """While the other one would go on for ever."""
    if engine == "executorch":
        progress(Reached("begun"))
        while True:
            pass
    raise CheckpointError("first")
