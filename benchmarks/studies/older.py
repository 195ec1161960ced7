"""Which results were measured on bundles of earlier versions, as the digests in them say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgemma.benchmarks.studies.registry import RESULTS
from dgemma.core.manifest import read_manifest
from dgemma.core.shipped import NAMES, bundle_path

CURRENT = ("tiny-sizes.json", "tiny-moe-sizes.json", "2b-sizes.json")  # list the bundles of today, all recipes
UNLISTED = ("26b-a4b", "small-memory", "story-")  # results of models of which no list of bundles is kept


def current() -> set[str]:
    """Digests of today's bundles, shipped ones included."""
    listed = [row for name in CURRENT for row in json.loads((RESULTS / name).read_text(encoding="utf-8"))["bundles"]]
    shipped = [read_manifest(bundle_path(name), check_files=False)[1] for name in NAMES]
    return {row["digest"] for row in listed} | set(shipped)


def is_older(path: Path, digests: set[str]) -> bool:
    """Whether a result names a bundle that is none of `digests`; False where it names none, or one of an unlisted model."""
    if any(model in path.name for model in UNLISTED):
        return False
    return any(digest not in digests for digest in _digests(json.loads(path.read_text(encoding="utf-8"))))


def _digests(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        if isinstance(found := values.get("digest"), str):
            yield found
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from _digests(value)
