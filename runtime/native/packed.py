"""A program whose XNNPACK-packed weights are mapped from an entry of the cache: made once, then only read.

XNNPACK checks bounds and the kernels' fingerprints of such a file, but not its bytes, so it only gets files that are sealed.
It writes into a mapping of the file, where a full disk would end the process: a separate process therefore does this, after
reserving the space. A sealed file is never written again, because every method was loaded when it was made.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from dgemma.runtime import cache
from dgemma.runtime.native.binding import Program

FILE = "packed.bin"
GROWTH = 1.5  # room asked for, in sizes of the program: packed weights are its weights, padded to tiles and pages
LONGEST = 240  # bytes of a path; XNNPACK takes 255, and an entry is made under a longer name


class PackedProgram(Program):
    """Without room, or where the cache cannot be written, it packs into memory instead and says so in a warning."""

    def __init__(self, library: Path, file: Path, entry: Path, methods: Sequence[str], *, threads: int | None = None) -> None:
        self._entry = self._ready(library, file, entry, methods)
        self._locked = self._entry is not None
        super().__init__(library, file, threads=threads, packed=self._entry and self._entry / FILE)

    def load(self, method: str, inputs: int, outputs: int) -> None:
        """The first method maps the file, under a lock of XNNPACK's that no two processes get: they take turns."""
        if self._entry is None or not self._locked:
            super().load(method, inputs, outputs)
            return
        with ExitStack() as turn:
            with suppress(OSError):  # a folder that cannot be written needs no turns: the file is opened for reading only
                turn.enter_context(cache.exclusive(self._entry))
            super().load(method, inputs, outputs)
            self.unlock(self._entry / FILE)
        self._locked = False

    def _ready(self, library: Path, file: Path, entry: Path, methods: Sequence[str]) -> Path | None:
        """The entry, made if it is not there or not sound; None where that cannot be."""
        if len(str(entry / FILE).encode()) > LONGEST:
            cache.warn(f"{entry}: path is too long for packed weights; set DGEMMA_CACHE to a shorter one")
            return None
        needed = int(GROWTH * file.stat().st_size)
        kept = cache.keep(entry, needed, lambda work: _pack(library, file, work / FILE, methods), lambda: cache.sound(entry))
        return entry if kept else None


def _pack(library: Path, file: Path, packed: Path, methods: Sequence[str]) -> None:
    """Run `main` in another process; raises OSError when it fails."""
    command = [sys.executable, "-m", __name__, str(library), str(file), str(packed), *methods]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process that packs them ended with status {done.returncode}"]
        raise OSError(lines[-1][:200])


def main(library: str, file: str, packed: str, *methods: str) -> str | None:
    """Load every method once, so that XNNPACK writes the file; returns what went wrong."""
    program = Program(Path(library), Path(file), packed=Path(packed))
    for method in methods:
        program.load(method, 0, 0)
    whole = Path(packed).exists() and program.unlock(Path(packed)) > 0
    program.close()
    return None if whole else "XNNPACK could not write them"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
