"""The only module that knows the cache of what an engine makes of a bundle on this machine: where it is, for which bundle and
engine, and whether it is intact.

An entry is a folder keyed by bundle digest, engine, engine version and processor. It is built beside its place and renamed, so
a killed build leaves nothing that can be loaded, and it may be deleted at any time. A seal with each file's size and samples
tells damaged entries from intact ones: hashing gigabytes at every load would defeat the purpose of mapping them. Samples detect
truncation, foreign files and long runs of lost pages, but not a single flipped bit between them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dgemma.core.errors import DgemmaWarning

SEAL = "sealed.json"
log = logging.getLogger(__name__)
_PAGE, _SAMPLES = 4096, 256
_TRAITS = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant", "isa")  # of /proc/cpuinfo


def enabled() -> bool:
    """False when DGEMMA_CACHE=off, or no folder is known: nothing is to be read from or written to the cache."""
    return os.environ.get("DGEMMA_CACHE", "").lower() != "off" and _place() is not None


def folder() -> Path:
    """DGEMMA_CACHE, else the platform's usual place for caches; it may not exist yet. Ask `enabled` first."""
    place = _place()
    assert place is not None, "no cache folder is known"
    return place


def _place() -> Path | None:
    """None where neither the environment nor the user's record tells, as for a service's user without a home."""
    if (named := os.environ.get("DGEMMA_CACHE")) and named.lower() != "off":
        return Path(named).absolute()
    usual = {"win32": ("LOCALAPPDATA", "AppData/Local"), "darwin": ("", "Library/Caches")}
    variable, inside = usual.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    if base := os.environ.get(variable):
        return Path(base) / "dgemma"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / inside / "dgemma" if home.name else None  # an empty HOME reads as /


def entry(digest: str, engine: str, version: str) -> Path:
    """Folder of what `engine` made of the bundle with this digest, for this processor; it may not exist."""
    return folder() / f"{digest[:16]}-{engine}-{version}-{processor()}"


def processor() -> str:
    """12 hexadecimal digits of this processor's architecture, model and feature flags: packed layouts depend on them."""
    traits = [sys.platform, platform.machine(), platform.processor()]
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
        traits += [line for line in first.splitlines() if line.split(":")[0].strip() in _TRAITS]
    except OSError:
        traits.append(platform.platform())
    return hashlib.sha256("\n".join(traits).encode()).hexdigest()[:12]


def room(path: Path, size: int) -> bool:
    """Whether `size` bytes, and a twentieth more, are free where `path` is or will be; raises OSError."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free >= size + size // 20


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process holds `path`, and hold it; the lock file stays: deleting it would race. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "a+b") as lock:  # closing it releases the lock
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                except OSError:
                    time.sleep(0.1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """A temporary folder that is sealed and becomes `path` when the block ends well, replacing what is there.

    Hold `exclusive(path)` around it. After an error, nothing is left of it. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*"):  # of builds that were killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        seal(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep(place: Path, need: int, make: Callable[[Path], None], is_sound: Callable[[], bool]) -> bool:
    """Make an entry of packed weights unless it is sound; False, with a warning, where that cannot be.

    Args:
        need: bytes that it may take.
        make: fills the folder that it is given, which then becomes `place`; raises OSError.
        is_sound: whether the entry can be used as it is.
    """
    if is_sound():
        log.info("%s: packed weights are mapped", place)
        return True
    started = time.perf_counter()
    try:
        with exclusive(place):
            if is_sound():  # another process made it meanwhile
                return True
            if place.exists():
                warn(f"{place}: is damaged; packing the weights again")
                shutil.rmtree(place)
            if not room(place, need):
                size = f"up to {need / 1e9:.1f} GB"
                warn(f"{place}: no room for packed weights ({size}); free some space, or set DGEMMA_CACHE to a folder")
                return False
            with building(place) as stage:
                make(stage)
        log.info("%s: weights packed in %.1f s", place, time.perf_counter() - started)
        return True
    except OSError as error:
        why = error.strerror or error
        warn(f"{place}: packed weights cannot be saved ({why}); set DGEMMA_CACHE to another folder, or to off")
        return False


def warn(text: str) -> None:
    """Say what a bad day of the cache costs."""
    warnings.warn(text, DgemmaWarning, stacklevel=2)


def seal(entry: Path) -> None:
    """Write down size and sample digest of every file of an entry; raises OSError."""
    files = sorted(p for p in entry.rglob("*") if p.is_file() and p.name != SEAL)
    found = {p.relative_to(entry).as_posix(): [p.stat().st_size, _sample(p)] for p in files}
    (entry / SEAL).write_text(json.dumps(found, indent=1))


def sound(entry: Path) -> bool:
    """Whether an entry is there, and each file is as when it was sealed, as far as samples tell."""
    try:
        sealed = json.loads((entry / SEAL).read_text())
        return bool(sealed) and all([(p := entry / n).stat().st_size, _sample(p)] == known for n, known in sealed.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def held(digest: str) -> list[tuple[Path, int, bool]]:
    """Everything that is kept of a bundle, for any engine, version and processor: folder, bytes, and whether it is sound."""
    seals = sorted(folder().glob(f"{digest[:16]}-*/**/{SEAL}")) if enabled() else []
    return [(s.parent, sum(p.stat().st_size for p in s.parent.iterdir() if p.is_file()), sound(s.parent)) for s in seals]


def _sample(path: Path) -> str:
    """sha256 of up to 256 pages, evenly spread, the first and the last among them."""
    size, digest = path.stat().st_size, hashlib.sha256()
    last = max(size - _PAGE, 0)
    with open(path, "rb", buffering=0) as file:
        for offset in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
            file.seek(offset)
            digest.update(file.read(_PAGE))
    return digest.hexdigest()
