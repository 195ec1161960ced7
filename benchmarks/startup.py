"""Times of fresh processes: a cold `Session.load`, and `dgemma --help`."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgemma.benchmarks.stats import quartiles
from dgemma.core.errors import EngineError

_LOAD = """
import sys, time
start = time.perf_counter()
from dgemma.runtime.session import Session
imported = time.perf_counter()
session = Session.load(sys.argv[1], engine=sys.argv[2], threads=int(sys.argv[3]))
loaded = time.perf_counter()
graphs = session.generate([0], max_new_tokens=1).timings.load_s
print(imported - start, loaded - imported, graphs)
"""
_HELP = "import sys; sys.argv[0] = 'dgemma'; from dgemma.cli import main; main()"


def _run(*arguments: str) -> str:
    run = subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"a fresh process exited with status {run.returncode}: {last}")
    return run.stdout


def cold_load(bundle: Path, engine: str, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds of: the runtime's import; Session.load, hash checks included; the graphs, which the first generation loads.

    The files are in the page cache after the first process, which is not counted.
    """
    runs = [[float(x) for x in _run(_LOAD, str(bundle), engine, str(threads)).split()] for _ in range(repeats + 1)][1:]
    columns = dict(zip(("import_s", "load_s", "graphs_s"), zip(*runs, strict=True), strict=True))
    return {name: asdict(quartiles(values)) for name, values in columns.items()}


def help_seconds(repeats: int) -> dict[str, Any]:
    """Wall-clock seconds of `dgemma --help`, interpreter start included."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        _run(_HELP, "--help")
        times.append(time.perf_counter() - started)
    return asdict(quartiles(times[1:]))
