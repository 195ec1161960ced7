"""The bundle itself, as a peer's process: denoising steps of the host loop, sampler included, and autoregressive tokens.

    python -m dgemma.benchmarks.studies.peers.ours BUNDLE ENGINE --prefix 512 --repeats 3 --threads 2      (what `peers` starts)

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dgemma.benchmarks import report
from dgemma.benchmarks.bench.budget import Budget
from dgemma.benchmarks.bench.fresh_process import filler
from dgemma.benchmarks.bench.prefix_sweep import PrefixSweep
from dgemma.benchmarks.studies.peers.peer import Sample
from dgemma.core.engines import PACKAGES
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine


def measure(bundle: Path, name: str, prefix: int, repeats: int, threads: int) -> Sample:
    """`repeats` canvases' first steps and as many rows of tokens, after one of each to warm up."""
    engine = open_engine(Bundle.open(bundle), name, threads)
    try:
        ids = filler(engine.bundle.manifest.model.vocab_size, prefix)
        _, (point,) = PrefixSweep(engine).measure([prefix], ids, Budget(seconds=1.0, repeats=repeats + 1))
        first_steps, first_tokens = (len(values) // (repeats + 1) for values in (point.steps, point.tokens))
        version = f"{PACKAGES[name]} {engine.version}"
        return Sample(version=version, step_s=point.steps[first_steps:], token_s=point.tokens[first_tokens:])
    finally:
        engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.peers.ours", description="A bundle's own steps.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("engine")
    parser.add_argument("--prefix", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print(measure(given.bundle, given.engine, given.prefix, given.repeats, given.threads).to_line())
    return 0


if __name__ == "__main__":
    report.main(main)
