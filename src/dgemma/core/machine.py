"""Facts of the machine that a result was measured on. No host name, user or path: results are published."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("dgemma", "numpy", "onnxruntime", "executorch", "torch", "jax", "sentencepiece", "tokenizers")
_CPUINFO = Path("/proc/cpuinfo")


def _cpuinfo(*keys: str) -> str | None:
    """The first value of one of these keys that is not empty; None where the system does not tell."""
    try:
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in keys and value.strip():
                return value.strip()
    except OSError:
        pass
    return None


def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    return _cpuinfo("model name", "Hardware", "Model") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them; empty where the system does not tell."""
    return frozenset((_cpuinfo("flags", "Features") or "").split())


def int8_path(flags: Collection[str]) -> tuple[str, str | None]:
    """Which instructions multiply bytes, and a warning where they are slow.

    Without VNNI, x86's own sum of two byte products saturates (`vpmaddubsw`), so that bytes are widened first (`vpmaddwd`).
    """
    for flag, name in (
        ("amx_int8", "AMX"),
        ("avx512_vnni", "AVX512-VNNI"),
        ("avx_vnni", "AVX-VNNI"),
        ("i8mm", "NEON with i8mm"),
        ("asimddp", "NEON with dot product"),
    ):
        if flag in flags:
            return name, None
    if "avx2" in flags:
        return "AVX2 without VNNI", "no VNNI: int8 products widen bytes to 16 bits, which is exact and slower"
    if "asimd" in flags or "neon" in flags:
        return "NEON without dot product", "no dot product instruction: int8 products take the widening path, which is slower"
    return "not known", None


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
    """JSON types: processor, its int8 path, cores, memory in bytes, load, system, versions, date in UTC."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "int8": int8_path(cpu_flags())[0],
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "load_average": load_average(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
