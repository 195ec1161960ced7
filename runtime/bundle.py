"""A bundle that was verified: its folder, its manifest, its digest. Nothing here opens a graph."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from dgemma.core.errors import BundleError
from dgemma.core.manifest import MANIFEST, GraphSpec, Manifest, inner_path, read_manifest
from dgemma.core.shipped import bundle_path
from dgemma.runtime.hash_records import HashChecker

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a session needs to know of a bundle. Make one with `open`, which checks every file.

    Attributes:
        path: absolute, for graphs are opened later, and the working directory may change before.
        hashed_bytes: of the files that were hashed when it was opened.
    """

    path: Path
    manifest: Manifest
    digest: str
    hashed_bytes: int

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, by_record: bool = False) -> Bundle:
        """Read the manifest and check version, digest, sizes and hashes; raises BundleError.

        Args:
            by_record: do not hash large files that were hashed before on this machine and did not change (`hash_records.py`).
        """
        folder, checker = bundle_path(path), HashChecker(by_record=by_record)
        started = time.perf_counter()
        manifest, digest = read_manifest(folder, holds=checker)
        _check_lengths(manifest, folder)
        seconds = time.perf_counter() - started
        log.info("%s: digest %.12s, %.1f MB hashed in %.2f s", folder, digest, checker.hashed_bytes / 1e6, seconds)
        return cls(path=folder.absolute(), manifest=manifest, digest=digest, hashed_bytes=checker.hashed_bytes)

    def file(self, name: str) -> Path:
        """Path of a listed file; raises BundleError when it is empty, a link or outside the bundle."""
        path = inner_path(self.path, name)
        if name not in self.manifest.files:
            raise BundleError(f"{path}: is not listed in the manifest; export the bundle again")
        if self.manifest.files[name].size == 0:
            raise BundleError(f"{path}: is empty; export the bundle again")
        return path

    def graph(self, engine: str, name: str) -> GraphSpec:
        """The spec of one graph; raises BundleError when the bundle was made without it."""
        try:
            return self.manifest.graphs[engine][name]
        except KeyError:
            raise BundleError(f"{self.path}: has no {engine} graph {name!r}; export the bundle again") from None


def _check_lengths(manifest: Manifest, folder: Path) -> None:
    """Lengths size the caches and the noise, so they must be integers that fit together."""
    for name in ("canvas_length", "steps", "context", "chunk"):
        value = getattr(manifest, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BundleError(f"{folder / MANIFEST}: {name}={value!r} must be a positive integer; export the bundle again")
    if manifest.context <= manifest.canvas_length or manifest.steps != manifest.sampler.steps:
        raise BundleError(f"{folder / MANIFEST}: canvas, context and steps do not fit together; export the bundle again")
