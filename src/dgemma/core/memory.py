"""How much memory this machine has free."""

from __future__ import annotations

import os
from pathlib import Path

SWITCH = "DGEMMA_CHECK_MEMORY"  # 0: go ahead whatever is free
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # limit, usage, and the name of the page cache in the statistics beside them
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
)


def available() -> int | None:
    """Bytes that can be had without swapping, the container's limit included; None where the system does not tell."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) << 10)
    except (OSError, ValueError, KeyError, IndexError):
        pass
    for folder, limit, usage, cache in _CGROUPS:
        try:
            most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            found.append(max(0, most - used + int(stat.get(cache, 0))))  # the page cache gives way
        except (OSError, ValueError):  # no limit reads "max"
            continue
    return min(found) if found else None


def is_checked() -> bool:
    return os.environ.get(SWITCH) != "0"
