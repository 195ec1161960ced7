"""Generations under options drawn at random on every backend of a bundle: the same decisions, or the reason why not.

    python -m dgemma.benchmarks.studies.same_options BUNDLE --checkpoint CKPT [--count 200] [--threads N] [--out FILE]

The last part of `dgemma verify BUNDLE --options COUNT`, alone; differences are measured as there (`verify/options.py`).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.studies.arguments import write_out
from dgemma.core import machine
from dgemma.core.engines import ENGINES
from dgemma.core.errors import UsageError
from dgemma.core.progress import progress
from dgemma.runtime.bundle import Bundle
from dgemma.verify import golden, options
from dgemma.verify.backends import backends_of


def compare(bundle: Bundle, checkpoint: str, count: int, threads: int) -> dict[str, Any]:
    """`drawn`: of each option, in how many generations it is; `backends`: as `options.compare` gives them."""
    engines = [name for name in ENGINES if name in bundle.manifest.graphs]
    runs = [(seed, golden.room_for(bundle.manifest, t.prompt_ids.tolist()), t) for seed, t in golden.read(bundle)]
    with ExitStack() as stack:
        backends, tolerances, missing = backends_of(bundle, checkpoint, engines, threads)
        for backend in backends:
            stack.callback(backend.close)
        asked = options.draw_all(count, bundle.manifest, backends, runs)
        found = options.compare(backends, tolerances, asked, progress)
    drawn = Counter(name for one in asked for name in one.steer.to_dict())
    return {"generations": count, "drawn": dict(sorted(drawn.items())), "backends": found, "missing": missing}


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.same_options", description="Same decisions under any options."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", required=True, help="the float model of the bundle")
    parser.add_argument("--count", type=int, default=200, help="generations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    asked = parser.parse_args(argv)
    report.check_out(asked.out)
    if asked.count < 1:
        raise UsageError("--count must be at least 1")
    clock = time.process_time()
    found = compare(Bundle.open(asked.bundle), asked.checkpoint, asked.count, asked.threads)
    result = {"benchmark": "same options", "machine": machine.facts(), "cpu_s": round(time.process_time() - clock, 1), **found}
    beyond = 0
    for name, one in found["backends"].items():
        if one["against"] is not None:
            print(f"{name} against {one['against']}: {one['equal']} of {one['drawn']} generations equal")
        if fused := one.get("fused"):
            print(f"{name}: {fused['equal']} of {fused['drawn']} fused generations equal to the host loop's")
        beyond += sum(check["value"] for check in one["checks"])
    print(f"{beyond} differences that are no near-ties")
    write_out(asked.out, result)
    return 1 if beyond else 0


if __name__ == "__main__":
    report.main(run)
