"""Processor time of the experts of one layer, by every kernel that this processor runs, on one core.

    python -m dgemma.benchmarks.studies.experts [--hidden 2816] [--width 704] [--chosen 8] [--rows 256] [--out FILE]

Weights are random, for 128 experts and for 16. The goal is that 128 take at most 1.8 times as long as 16 with the best kernel:
the cost should come from the experts chosen for each row, not from how many there are. Each mix of kernel, experts, bits
and rows is called for `--budget` seconds at most, and at least once. Needs 1 GB of memory.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dgemma.benchmarks import report
from dgemma.benchmarks.stats import quartiles
from dgemma.core import machine
from dgemma.quantize.expert_layout import LaidOut, lay_out
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.runtime.native import build

GOAL = 1.8
EXPERTS = (16, 128)
GROUP = 64  # inputs to a multiplier at 4 bits, as recipes have it for 704 and 2,816 inputs
CALLS = 9  # at most, of each case
Array = npt.NDArray[Any]


class Layer(ctypes.Structure):
    """`dg_experts`."""

    _fields_ = (
        ("experts", ctypes.c_int32),
        ("hidden", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("gate_up_group", ctypes.c_int32),
        ("down_group", ctypes.c_int32),
        ("gate_up", ctypes.c_void_p),
        ("gate_up_multipliers", ctypes.c_void_p),
        ("gate_up_scale", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
        ("down_multipliers", ctypes.c_void_p),
        ("down_scale", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(build.experts()))
    loaded.dg_experts_kernel.restype = loaded.dg_experts_run_threads.restype = ctypes.c_char_p
    return loaded


def kernels() -> list[str]:
    """What this processor runs, best first."""
    found: list[str] = []
    while name := library().dg_experts_kernel(len(found)):
        found.append(name.decode())
    return found


def run(layer: Layer, x: Array, ids: Array, weights: Array, *, kernel: str | None = None, threads: int = 1) -> Array:
    """x float32 [R, D], ids int64 [R, K], weights float32 [R, K] → [R, D]; raises ValueError with what the library says."""
    out = np.full_like(x, 7.0)
    given = [np.ascontiguousarray(a) for a in (x, ids, weights)]
    wrong = library().dg_experts_run_threads(
        ctypes.byref(layer),
        *(a.ctypes.data_as(ctypes.c_void_p) for a in given),
        ctypes.c_int64(len(x)),
        ctypes.c_int32(ids.shape[1]),
        out.ctypes.data_as(ctypes.c_void_p),
        kernel and kernel.encode(),
        ctypes.c_int(threads),
    )
    if wrong:
        raise ValueError(wrong.decode())
    return out


def _matrix(bits: int, outputs: int, inputs: int) -> QuantizedMatrix:
    """Of one expert."""
    generator = torch.Generator().manual_seed(0)
    low, high = (-127, 128) if bits == 8 else (-8, 8)
    integers = torch.randint(low, high, (1, outputs, inputs), generator=generator, dtype=torch.int8)
    scale = torch.rand((1, outputs), generator=generator) * 1e-3 + 1e-3
    if bits == 8:
        return QuantizedMatrix(bits=8, integers=integers, scale=scale)
    multipliers = torch.randint(1, 16, (1, outputs, -(-inputs // GROUP)), generator=generator, dtype=torch.int8)
    return QuantizedMatrix(bits=4, integers=integers, scale=scale, multipliers=multipliers)


def arrays(bits: int, experts: int, hidden: int, width: int) -> tuple[list[Array], list[int]]:
    """The arrays of `dg_experts`, one expert's integers many times over, and its two groups."""
    stacks: tuple[LaidOut, LaidOut] = lay_out(_matrix(bits, 2 * width, hidden), _matrix(bits, hidden, width))
    parts = [np.repeat(t.numpy(), experts, 0) for s in stacks for t in (s.weight, s.multipliers, s.scale)]
    return parts, [s.group for s in stacks]


def rows_of(count: int, hidden: int, experts: int, chosen: int) -> tuple[Array, Array, Array]:
    """Rows, experts chosen evenly for them, and weights that add up to 1."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(experts)[:chosen] for _ in range(count)])
    return rng.standard_normal((count, hidden)).astype(np.float32), ids, np.full((count, chosen), 1 / chosen, np.float32)


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
            parts, groups = arrays(bits, experts, hidden, width)
            layer = Layer(experts, hidden, width, bits, *groups, *(a.ctypes.data for a in parts))
            for kernel in kernels():
                for count in (rows, 1):
                    given = rows_of(count, hidden, experts, chosen)
                    taken = seconds(partial(run, layer, *given, kernel=kernel), budget)
                    yield {
                        "bits": bits,
                        "experts": experts,
                        "kernel": kernel,
                        "rows": count,
                        "ms": quartiles([1e3 * s for s in taken]),
                        "bytes": sum(a.nbytes for a in parts),
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
