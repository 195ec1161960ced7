"""A bundle beside transformers and llama.cpp: ms per denoising step and autoregressive tokens/s, in one run.

    python -m dgemma.benchmarks.studies.peers BUNDLE [--peers transformers,llama.cpp] [--llama FOLDER] [--threads 2] \
        [--out FILE]

Peers have the dims of the bundle's config and random weights. Each runs in a process of its own, one at a time, in turns. A
peer that is not there, fails or would not fit into memory is left out, with the reason in the result. `--peers` takes parts
of names too: transformers/eager, transformers/compiled/bfloat16, llama.cpp/q8_0. Model files for llama.cpp are written into
the temporary folder (TMPDIR) and removed. The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from dgemma.benchmarks import report
from dgemma.benchmarks.studies.peers import show
from dgemma.benchmarks.studies.peers.catalogue import PeersRequest
from dgemma.benchmarks.studies.peers.run import measure
from dgemma.core import machine
from dgemma.core.progress import stages


def run(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", help="of the bundle")
    parser.add_argument("--peers", default="transformers,llama.cpp", help="names or what they begin with, commas between")
    parser.add_argument("--llama", type=Path, help="a folder with llama-bench; else llama-cpp-python runs, where installed")
    parser.add_argument("--llama-diffusion-model", type=Path, help="a GGUF file for llama-diffusion-cli of that folder")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--prefix", type=int, default=512, help="tokens before the canvas")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each peer")
    parser.add_argument("--repeats", type=int, default=3, help="measurements in a turn")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that one process may take, compiling included")
    parser.add_argument("--out", type=Path, help="where to write the result")
    given = parser.parse_args(arguments)
    report.check_out(given.out)
    request = PeersRequest(
        bundle=given.bundle,
        engine=given.engine,
        peers=tuple(name.strip() for name in given.peers.split(",") if name.strip()),
        llama=given.llama,
        diffusion_model=given.llama_diffusion_model,
        threads=given.threads,
        prefix=given.prefix,
        rounds=given.rounds,
        repeats=given.repeats,
        limit_s=given.limit,
    )
    with stages() as stage:
        result = measure(request, stage)
    report.table("Side by side", show.HEADER, show.rows(result))
    for line in show.notes(result):
        print(line)
    if given.out:
        report.write_json(given.out, result)
    print(json.dumps(result, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes end and model files go, as after Ctrl-C
    report.main(run)
