"""Processor time of the experts of one layer, by every kernel that this processor runs, on one core.

    python -m dgemma.benchmarks.studies.experts [--hidden 2816] [--width 704] [--chosen 8] [--rows 256] [--out FILE]

Weights are random, for 128 experts and for 16. The goal is that 128 take at most 1.8 times as long as 16 with the best kernel:
the cost should come from the experts chosen for each row, not from how many there are. Each mix of kernel, experts, bits
and rows is called for `--budget` seconds at most, and at least once. Needs 1 GB of memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.bench.experts import chosen_evenly, kernels, random_experts, run
from dgemma.benchmarks.stats import quartiles
from dgemma.core import machine

GOAL = 1.8
EXPERTS = (16, 128)
CALLS = 9  # at most, of each case


def seconds(call: Callable[[], object], budget: float) -> list[float]:
    """Processor time of a few calls, the first, which warms up, left out unless it took the budget alone."""
    found: list[float] = []
    while (len(found) <= CALLS and sum(found) < budget) or not found:
        before = time.process_time()
        call()
        found.append(time.process_time() - before)
    return found[1:] or found


def measure(hidden: int, width: int, chosen: int, rows: int, budget: float) -> Iterator[dict[str, Any]]:
    """A case at a time: bits, experts, kernel, rows; milliseconds (quartiles) and bytes of the weights."""
    for bits in (8, 4):
        for experts in EXPERTS:
            made = random_experts(bits, experts, hidden, width)
            for kernel in kernels():
                for count in (rows, 1):
                    given = chosen_evenly(count, hidden, experts, chosen)
                    taken = seconds(partial(run, made.layer, *given, kernel=kernel), budget)
                    yield {
                        "bits": bits,
                        "experts": experts,
                        "kernel": kernel,
                        "rows": count,
                        "ms": quartiles([1e3 * s for s in taken]),
                        "bytes": made.bytes,
                    }


def shares(cases: Sequence[dict[str, Any]], rows: int) -> dict[str, dict[str, float]]:
    """Kernel → bits → how many times as long the most experts take as the fewest."""
    median = {(c["kernel"], c["bits"], c["experts"]): c["ms"].median for c in cases if c["rows"] == rows}
    few, many = EXPERTS
    return {
        kernel: {str(bits): round(median[kernel, bits, many] / median[kernel, bits, few], 3) for bits in (8, 4)}
        for kernel in dict.fromkeys(c["kernel"] for c in cases)
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.experts", description="Processor time of a layer's experts."
    )
    for name, default in (("hidden", 2816), ("width", 704), ("chosen", 8), ("rows", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for the calls of one case")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    cases = []
    for case in measure(options.hidden, options.width, options.chosen, options.rows, options.budget):
        cases.append(case)
        what = f"{case['bits']} bits, {case['experts']:>3} experts, {case['kernel']:<12} {case['rows']:>3} rows"
        print(f"  {what} {case['ms'].median:9.2f} ms", flush=True)
    found = shares(cases, options.rows)
    best = max(found[kernels()[0]].values())
    print(f"{EXPERTS[1]} experts take {best:.2f} times as long as {EXPERTS[0]} with the best kernel (goal {GOAL})")
    if options.out:
        settings = {key: value for key, value in vars(options).items() if key != "out"}
        plain = [{**case, "ms": asdict(case["ms"])} for case in cases]
        result = {"settings": settings, "cases": plain, "shares": found, "holds": best <= GOAL, "machine": machine.facts()}
        report.write_json(options.out, result)
    return 0 if best <= GOAL else 1


if __name__ == "__main__":
    report.main(main)
