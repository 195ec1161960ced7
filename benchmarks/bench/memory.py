"""Resident memory of this process, as Linux tells it: anonymous and file-backed, and the peak since a reset.

Elsewhere every function answers None: not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # proc(5), clear_refs


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Bytes: pages of the process's own, and pages that a file backs (or shared memory)."""

    anonymous: int
    file: int

    @property
    def total(self) -> int:
        return self.anonymous + self.file


def split(rollup: str) -> Resident:
    """From the text of /proc/self/smaps_rollup; raises ValueError when it lacks Rss or Anonymous."""
    rss, anonymous = (_kib(rollup, key) for key in ("Rss", "Anonymous"))
    return Resident(anonymous=anonymous, file=rss - anonymous)


def _kib(text: str, key: str) -> int:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) << 10
    raise ValueError(f"no {key}")


def resident() -> Resident | None:
    """What the process holds now."""
    try:
        return split((_PROCESS / "smaps_rollup").read_text(encoding="ascii"))
    except (OSError, ValueError, IndexError):
        return None


def reset_peak() -> bool:
    """Let the peak start from what is resident now; whether that was possible."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak() -> int | None:
    """Most bytes that were resident since the reset."""
    try:
        return _kib((_PROCESS / "status").read_text(encoding="ascii"), "VmHWM")
    except (OSError, ValueError, IndexError):
        return None
