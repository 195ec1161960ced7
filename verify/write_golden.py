"""`dgemma verify --write-golden`: the reference's trajectories of a bundle's golden prompts, for readers in any language."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import dgemma
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
from dgemma.runtime.bundle import Bundle
from dgemma.verify import golden, source_checkpoint
from dgemma.verify.comparison import divergence_of

Progress = Callable[[Sequence[Any], str], Iterable[Any]]


def write(bundle: Path, checkpoint: str, path: Path, progress: Progress) -> tuple[list[str], bool]:
    """Write the file, and compare it with what the export recorded of the float model.

    Returns:
        lines for people, and whether all differences are near-ties.
    Raises:
        UsageError: the reference cannot run here, or the file cannot be written.
        BundleError, CheckpointError: those cannot be used.
    """
    if util.find_spec("jax") is None:
        raise UsageError(f"--write-golden needs package 'jax'; {pip_install('reference')}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--write-golden {path}: its folder does not exist; make it first")
    opened = Bundle.open(bundle)
    runs = golden.read(opened)
    folder = source_checkpoint.folder_of(opened.manifest, checkpoint)
    if folder is None:
        raise UsageError("--write-golden: only torch can make random weights; give the folder of a checkpoint")
    from dgemma.verify.jax_backend import JaxBackend

    backend = JaxBackend(folder, "float32", opened.manifest)
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    made = {
        "command": f"dgemma verify {bundle.name} --checkpoint {folder.name} --write-golden {path.name}",
        "backend": backend.name,
        "checkpoint": folder.resolve().name,
        "versions": {"dgemma": dgemma.__version__, "python": platform.python_version(), **versions},
    }
    written = golden.write_reference(path, backend, opened.manifest, list(progress(runs, "reference")), made)
    lines = [f"wrote {path}: {len(written)} runs, {sum(len(t.step) for t in written)} steps, by {backend.name}"]
    recorded = golden.read(opened, "float")
    agree = True
    for i, ((seed, other), mine) in enumerate(zip(recorded, written, strict=bool(recorded))):
        if found := divergence_of(backend, mine, other, seed):
            near = found.is_near_tie is True
            agree &= near
            kind = "near-tie" if near else "NO near-tie"
            lines.append(f"  run {i}: {found.rule} at canvas {found.canvas} step {found.step}, {kind}")
    equal = f"{len(recorded)} trajectories of the float model that the export recorded"
    lines.append(f"{'agrees' if agree else 'DISAGREES'} with {equal}" if recorded else "the export recorded no float model")
    return lines, agree
