"""The compiler's own estimate of cycles, read from the text of an optimized TPU program and weighted by trip counts.

XLA for TPU notes `estimated_cycles` beside its instructions, each once, however often a loop runs. This module adds them up
over the calls, times the trips that a loop's condition compares its counter with. An estimate is all that this is: waits
for memory, traffic between chips and what overlaps are not in it. It knows nothing of models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALL = re.compile(r" (?:call|async-start)\(.*(?:to_apply|calls)=%?([\w.\-]+)")
_BRANCHES = re.compile(r" conditional\(.*branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r" conditional\(.*true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)")
_CONSTANT = re.compile(r" s32\[\](?:\{[^}]*\})? constant\((\d+)\)")
_FUSED = re.compile(r"calls=%?([\w.\-]+)")


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Weighted sum of estimated cycles, the instructions that carry one, and the trip counts found, outermost first."""

    total: int
    instructions: int
    trips: tuple[int, ...]


def estimated_cycles(text: str) -> Cycles:
    """Sum the estimates of an optimized HLO module's text; a conditional counts its most expensive branch."""
    computations, entry = _split(text)
    trips: list[int] = []

    @cache
    def walk(name: str) -> tuple[int, int]:
        total = counted = 0
        for line in computations.get(name, ()):
            if found := _CYCLES.search(line):
                total += int(found[1])
                counted += 1
            if found := _WHILE.search(line):
                times = _bound(computations, found[1])
                trips.append(times)
                inner, count = walk(found[2])
                total, counted = total + times * inner, counted + count
            elif found := _CALL.search(line):
                inner, count = walk(found[1])
                total, counted = total + inner, counted + count
            elif branches := _branches(line):
                inner, count = max(walk(branch) for branch in branches)
                total, counted = total + inner, counted + count
        return total, counted

    total, counted = walk(entry)
    return Cycles(total=total, instructions=counted, trips=tuple(trips))


def _split(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation by its name, and the entry's name."""
    computations: dict[str, list[str]] = {}
    entry, current = "", list[str]()
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = []
        else:
            current.append(line)
    return computations, entry


def _bound(computations: dict[str, list[str]], condition: str) -> int:
    """The largest constant in a loop's condition and in what it fuses: loops here count from 0 in steps of 1; else 1."""
    lines = computations.get(condition, [])
    names = [name for line in lines for name in _FUSED.findall(line)]
    lines = lines + [line for name in names for line in computations.get(name, ())]
    return max((int(found) for line in lines for found in _CONSTANT.findall(line)), default=1)


def _branches(line: str) -> list[str]:
    if found := _BRANCHES.search(line):
        return [name.strip().lstrip("%") for name in found[1].split(",")]
    found = _TWO_BRANCHES.search(line)
    return [found[1], found[2]] if found else []
