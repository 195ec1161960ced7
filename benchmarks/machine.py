"""Facts of the machine that a result was measured on. No host name, user or path: results are published."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("dgemma", "numpy", "onnxruntime", "executorch", "torch", "sentencepiece", "tokenizers")


def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware", "Model") and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def load_average() -> float | None:
    """Runnable processes of the last minute; a benchmark on a busy machine says so."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """Installed versions, read from metadata: nothing is imported."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def facts() -> dict[str, Any]:
    """JSON types: processor, cores, memory in bytes, load, system, versions, date in UTC."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "load_average": load_average(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
