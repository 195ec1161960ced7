"""The sha256 of large files that were hashed on this machine, so that a second load need not read gigabytes.

A record is a file in the cache folder, named by device and inode, with one line: size, time of the last write, time of the
last change of any kind, sha256. If a file's line would still be the same, it has not changed; all other files are hashed,
including those with a damaged or foreign record. A file that was changed just before it was hashed is not recorded, because a
coarse clock may give a later write the same times ("racily clean", https://git-scm.com/docs/racy-git). Windows has no time of
change, so there all files are always hashed.

It does not detect a medium that loses bits by itself (`dgemma inspect` and `dgemma verify` hash every file), and does not
protect against anyone who can write the cache folder, set the clock, or write to the device below its file system.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dgemma.core.manifest import sha256_file
from dgemma.runtime import cache

RECORD_FROM = 16 << 20  # bytes; hashing less takes no longer than a few records
SETTLED_NS = 3_000_000_000  # FAT's times are in steps of 2 s, the coarsest that are in use


class HashChecker:
    """Says whether a file has a sha256, and records large ones that have; `read_manifest` takes it.

    Args:
        by_record: do not hash what is recorded; otherwise everything is hashed.
    Attributes:
        hashed_bytes: of the files that were hashed.
    """

    def __init__(self, *, by_record: bool) -> None:
        self.by_record, self.hashed_bytes = by_record, 0

    def __call__(self, path: Path, sha256: str) -> bool:
        """Raises OSError when the file cannot be read."""
        found = path.stat()
        place = _place(found)
        if self.by_record and place and _recorded(place) == _line(found, sha256):
            return True
        started = time.time_ns()
        holds = sha256_file(path) == sha256
        self.hashed_bytes += found.st_size
        if place and not holds:
            _remove(place)
        elif place and max(found.st_mtime_ns, found.st_ctime_ns) + SETTLED_NS <= started and _same(path.stat(), found):
            _record(place, _line(found, sha256))
        return holds


def forget(paths: Iterable[Path]) -> None:
    """Have these files hashed the next time, as far as their records can be deleted; raises OSError for a missing file."""
    for path in paths:
        if place := _place(path.stat()):
            _remove(place)


def _place(found: os.stat_result) -> Path | None:
    """Where the record of a file is or would be; None when there is none to be of it."""
    if sys.platform == "win32" or found.st_size < RECORD_FROM or not cache.enabled():
        return None
    return cache.folder() / "verified" / f"{found.st_dev:x}-{found.st_ino:x}"


def _line(found: os.stat_result, sha256: str) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {sha256}\n"


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (_place(one), _line(one, "")) == (_place(other), _line(other, ""))


def _recorded(place: Path) -> str | None:
    try:
        return place.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def _record(place: Path, line: str) -> None:
    """Written beside its place and renamed, so that no reader sees a part; a warning where that cannot be."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=place.parent)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(line)
            os.replace(name, place)
        except OSError:
            _remove(Path(name))
            raise
    except OSError as error:
        why = error.strerror or error
        cache.warn(f"{place.parent}: a file's hash cannot be saved ({why}); set DGEMMA_CACHE to another folder, or to off")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
