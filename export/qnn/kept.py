"""Contexts of a long export that lie beside its bundle until that is written, so that an export that was ended goes on.

A context is known by what it is made of: the compiler's version and options, its graphs' names and bytes, and their weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WORTH = 60.0  # planned seconds of compiling from which contexts are kept


class Kept:
    """Args:
    folder: made when the first context is kept.
    made_of: what all contexts depend on.
    """

    def __init__(self, folder: Path, made_of: Iterable[str]) -> None:
        self._folder, self._made_of = folder, list(made_of)

    def restore(self, job: dict[str, Any], stage: Path) -> bool:
        """Put a context's files at their places below `stage`; whether there were any."""
        kept = self._folder / self._key(job, stage)
        if not kept.is_dir():
            return False
        place = _place(job, stage)
        for path in kept.iterdir():
            _link(path, place / path.name)
        return True

    def keep(self, job: dict[str, Any], stage: Path, binary: str) -> None:
        """Keep the wrappers that a job wrote, and their binary beside them."""
        kept = self._folder / self._key(job, stage)
        shutil.rmtree(made := kept.with_suffix(".part"), ignore_errors=True)
        made.mkdir(parents=True)
        for name in (binary, *(Path(wrapper).name for _, wrapper in job["graphs"])):
            _link(_place(job, stage) / name, made / name)
        made.rename(kept)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _key(self, job: dict[str, Any], stage: Path) -> str:
        made = hashlib.sha256(json.dumps([self._made_of, job], sort_keys=True).encode())
        for source, _ in job["graphs"]:
            made.update((stage / source).read_bytes())
        return made.hexdigest()[:32]


def _place(job: dict[str, Any], stage: Path) -> Path:
    return (stage / job["graphs"][0][1]).parent


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the disk has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
