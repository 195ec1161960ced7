"""Whether an export fits on this machine: checked before work starts, so that no full disk or OOM killer ends it later."""

from __future__ import annotations

import shutil
from pathlib import Path

from dgemma.core.errors import ExportError
from dgemma.core.machine import usable_cores
from dgemma.core.memory import SWITCH, available, is_checked
from dgemma.export.estimate import Estimate


def check(estimate: Estimate, out: Path) -> None:
    """Raises ExportError where the export takes more disk or memory than there is free; the folder of `out` exists."""
    for reason in (_disk(estimate, out), _memory(estimate)):
        if reason:
            raise ExportError(f"--out {out}: {reason}")


def fits(estimate: Estimate, out: Path) -> bool:
    """Whether `check` would raise nothing."""
    return not (_disk(estimate, out) or _memory(estimate))


def at_once(estimate: Estimate) -> bool:
    """Whether the engines can be lowered at the same time: a core for each, and memory for all with a fifth to spare."""
    free = available()
    return 1 < len(estimate.engines) <= usable_cores() and free is not None and 1.25 * estimate.together <= free


def lines(estimate: Estimate, out: Path) -> list[str]:
    """The same in words, for a plan."""
    free = _free_memory()
    memory = _memory(estimate) or ("memory suffices" if free is not None else "free memory is not known")
    if at_once(estimate):
        memory += f"; engines are lowered at the same time, with {estimate.together / 1e9:.1f} GB"
    return [f"room        {_disk(estimate, out) or 'disk suffices'}", f"            {memory}"]


def _disk(estimate: Estimate, out: Path) -> str | None:
    """What is wrong."""
    folder = out.absolute().parent
    if not folder.is_dir():
        return f"{folder} does not exist; make it first"
    needed, free = estimate.disk, shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return (
        f"writing takes {needed / 1e9:.1f} GB of disk at most and {free / 1e9:.1f} GB is free; free some space, choose another "
        "disk, or a smaller --recipe"
    )


def _free_memory() -> int | None:
    return available() if is_checked() else None


def _memory(estimate: Estimate) -> str | None:
    """What is wrong."""
    free = _free_memory()
    if free is None or estimate.peak <= free:
        return None
    parts = ", ".join(f"{stage} {size / 1e9:.1f}" for stage, size in estimate.stages.items())
    before = max(estimate.stages.get(stage, 0) for stage in ("quantize", "qnn"))
    fits = [engine for engine in estimate.engines if max(before, estimate.stages[engine]) <= free]
    alone = f"--engine {fits[0]} would fit; " if fits else ""
    return (
        f"the export takes about {estimate.peak / 1e9:.1f} GB of memory ({parts}) and {free / 1e9:.1f} GB is free; {alone}"
        f"close other programs, choose a smaller --recipe or another machine, or set {SWITCH}=0 to try anyway"
    )
