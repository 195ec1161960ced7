"""How far a run can be trusted: a fixed piece of arithmetic before and after it, the machine's load, and the spread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

DRIFT, SPREAD, LOAD = 0.10, 0.20, 0.5  # what is worth a warning: change of pace, quartile range, load per core


def calibrate(repeats: int = 15) -> float:
    """Median seconds of a fixed matrix product and a fixed loop in Python, on one core: a few milliseconds."""
    a = np.random.default_rng(0).standard_normal((192, 192), dtype=np.float32)
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(4):
            np.dot(a, a)
        sum(i * i for i in range(20_000))
        found.append(time.perf_counter() - started)
    return median(found)


def spread(quartiles: Mapping[str, Any]) -> float:
    """Range between the quartiles over the median."""
    return float((quartiles["q3"] - quartiles["q1"]) / quartiles["median"]) if quartiles["median"] else 0.0


def doubt(before_s: float, after_s: float, load: float | None, cores: int) -> float:
    """By how much other work may have put ratios off, relatively: change of pace, and load beyond what each core can spare."""
    return abs(after_s / before_s - 1) + max(0.0, (load or 0.0) / cores - LOAD)


def warnings(before_s: float, after_s: float, load: float | None, cores: int, spreads: Mapping[str, float]) -> list[str]:
    """One line for each reason to distrust a run; empty for a quiet one."""
    found = []
    if load is not None and load > LOAD * cores:
        found.append(f"other programs were running at the start (load average {load:.1f} on {cores} cores)")
    if abs(drift := after_s / before_s - 1) > DRIFT:
        found.append(f"the machine's speed changed by {drift:+.0%} from start to end")
    wide = {name: value for name, value in spreads.items() if value > SPREAD}
    if wide:
        worst = max(wide, key=lambda name: wide[name])
        found.append(f"{len(wide)} of {len(spreads)} figures scatter, {worst} by {wide[worst]:.0%} between its quartiles")
    if cores == 1:
        found.append("one core only: the engine shares it with everything else")
    return found
