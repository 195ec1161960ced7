"""Checkpoints in the hub's local cache, found by their id with huggingface_hub's own look-up, which never asks the network.

It respects HF_HOME and HF_HUB_CACHE, and takes the revision that `refs/main` names. It knows nothing of what files hold.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dgemma.core.errors import CheckpointError
from dgemma.core.manifest import MANIFEST
from dgemma.core.shipped import NAMES
from dgemma.model.weight_files import INDEX, PRECEDENCE, WEIGHTS, promised_files

(SHIPPED,) = NAMES
RELEASED = "google/diffusiongemma-26B-A4B-it"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHAPE = "; 26b-a4b is the preset of its shape"
_TEXT = ("tokenizer.json", "tokenizer.model")
_NEEDED = ["*.json", "*.jinja", "*.model", "*.safetensors"]


def folder_of(named: Path | str) -> Path:
    """A checkpoint's folder: the path itself, or the snapshot of an `OWNER/NAME` that is no path.

    Raises:
        CheckpointError: the name is empty, or a bundle's; or the cache has no such snapshot or only a part of it, and the
            message says the command that fetches it.
    """
    if not os.fspath(named):
        raise CheckpointError("'' is not a checkpoint; give a folder, a hub id or a preset")
    folder = Path(named)
    if str(named) == SHIPPED and not folder.exists():
        cure = f"give checkpoints/{SHIPPED} of a source checkout"
        raise CheckpointError(f"{SHIPPED}: is shipped as a bundle, not a checkpoint; {cure}")
    if (folder / MANIFEST).is_file() and not (folder / "config.json").exists():
        raise CheckpointError(f"{named}: is a bundle, not a checkpoint; give the checkpoint that it was exported from")
    if not _ID.fullmatch(str(named)) or folder.exists():
        return folder
    return _snapshot(str(named))


def name_of(folder: Path) -> str:
    """What to call a checkpoint: the id of a snapshot in a hub's cache, or the folder's own name."""
    *_, repo, kind, _ = ("", "", *folder.absolute().parts)
    if kind == "snapshots" and repo.startswith("models--"):
        return repo.removeprefix("models--").replace("--", "/", 1)
    return folder.resolve().name


def _snapshot(repo: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    partial = None
    try:
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=_NEEDED))
    except LocalEntryNotFoundError as error:  # with a path where the cache knows what the repository holds, and lacks some
        partial = getattr(error, "snapshot_path", None)
        if partial is None:
            raise CheckpointError(
                f"{repo}: is not a folder, and the hub's cache {constants.HF_HUB_CACHE} does not have it; "
                f"fetch it with `hf download {repo}`, or give a folder or a preset{_SHAPE if repo == RELEASED else ''}"
            ) from None
        folder = Path(partial)
    lacking = _lacking(folder)
    if lacking or partial is not None:
        what = f"{lacking[0]} is missing ({len(lacking)} in all)" if lacking else "files are missing"
        raise CheckpointError(f"{folder}: the download is incomplete: {what}; finish it with `hf download {repo}`")
    return folder


def _lacking(folder: Path) -> list[str]:
    """Files that a snapshot cannot do without and does not have, links into nothing among them."""
    present = {path.name for path in folder.iterdir() if path.is_file()}
    links = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.exists()}
    needed = {"config.json"}
    if INDEX in present and WEIGHTS not in present:
        needed |= promised_files(folder / INDEX)
    elif not any(name.endswith(".safetensors") or name in PRECEDENCE for name in present):
        needed.add(WEIGHTS)
    if not present & set(_TEXT):
        needed.add(_TEXT[0])
    return sorted(links | (needed - present))
