"""Bundles that come with the package, by name: `tiny` wherever a bundle is expected. They are read, never written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgemma.core.errors import BundleError

FOLDER = Path(__file__).resolve().parents[1] / "bundles"
NAMES = ("tiny",)
_SINGLE_TURNS = ("tiny", "tiny-moe")  # names of checkpoints, as `provenance` gives them


def bundle_path(named: str | os.PathLike[str]) -> Path:
    """The folder of a bundle: that of a shipped one for its name, unless the working directory has a folder of that name.

    Raises:
        BundleError: the name is empty.
    """
    if not os.fspath(named):
        raise BundleError(f"'' is not a bundle; give the path of one, or {', '.join(NAMES)}")
    path = Path(named)
    return FOLDER / f"{path}.dgemma" if str(named) in NAMES and not path.is_dir() else path


def knows_single_turns_alone(provenance: Mapping[str, Any]) -> bool:
    """Whether a model was trained on single turns, so that later answers are nonsense, by its bundle's `provenance`: a chat
    template cannot tell, and a manifest has no key for it."""
    return provenance.get("name") in _SINGLE_TURNS


def is_shipped(bundle: Path) -> bool:
    """Whether a bundle belongs to the installed package."""
    return bundle.resolve().parent == FOLDER
