"""What only a fresh process tells: load time, cold and warm, and the memory of load, prefill and denoising steps.

    python -m dgemma.benchmarks.bench.fresh_process BUNDLE ENGINE THREADS PREFIX STEPS TARGET      (what `load_times` starts)

Cold means that no file was recorded as hashed before, and that the kernel was asked to drop the bundle's files, and packed
weights that were kept of it, from its page cache; Python and the engine's library stay there. Packed weights that were not
kept are made in the cold load, where the engine keeps any, and found by the warm ones, as records of hashes are. Loaded
are the graphs that `dgemma run` uses: encode and denoise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgemma.benchmarks.bench import memory
from dgemma.benchmarks.stats import quartiles
from dgemma.core.accelerators import AUTO
from dgemma.core.cost import prefix_bytes
from dgemma.core.errors import EngineError
from dgemma.core.manifest import read_manifest
from dgemma.runtime import cache, hash_records

COLD = "every file hashed, none of them in the page cache; Python and the engine's library may be"
PACKED = {  # by whether packed weights were kept before the cold load, and after it
    (True, True): "kept from an earlier load",
    (False, True): "made in the cold load",
    (False, False): "not kept",
}
_SLOW = 20.0  # seconds: a load that takes longer is measured once warm


def probe(bundle: Path, engine: str, threads: int, prefix: int, steps: int, target: str = AUTO) -> dict[str, Any]:
    """Load, encode `prefix` tokens, run `steps` denoising steps; seconds and bytes as JSON types.

    load_s is check_s (of all files; hashed_bytes were hashed for it) and graphs_s. transient_bytes is the peak of anonymous
    pages in the steps, beyond those after loading and the prefix's keys and values.
    """
    read = read_bytes()
    from dgemma.runtime.bundle import Bundle
    from dgemma.runtime.engines import open_engine
    from dgemma.runtime.loops import Loops
    from dgemma.runtime.prefix import Prefix

    before, imported = memory.resident(), time.perf_counter()
    opened = Bundle.open(bundle, by_record=True)
    checked = time.perf_counter()
    runner = open_engine(opened, engine, threads, target)
    runner.prepare("encode", "denoise")
    loaded_at, loaded = time.perf_counter(), memory.resident()
    times = {"check_s": checked - imported, "graphs_s": loaded_at - checked, "load_s": loaded_at - imported}
    moment = time.time()
    read_at_load = None if read is None else (read_bytes() or read) - read
    caches = Prefix(runner)
    caches.extend(filler(opened.manifest.model.vocab_size, prefix))
    caches.encode(lambda: False)
    known = memory.reset_peak()
    canvas = Loops(runner).host(caches, 0, 0, False)
    for _ in range(steps):
        next(canvas)
    after, peak, cache = memory.resident(), memory.peak(), prefix_bytes(opened.manifest.model, prefix)
    found: dict[str, Any] = {"read_bytes": read_at_load, "prefix_bytes": cache, "transient_bytes": None}
    if before and loaded and after:
        found |= {name: asdict(r) for name, r in (("process", before), ("loaded", loaded), ("running", after))}
        if known and peak is not None:
            found["peak_bytes"] = peak
            # File pages are only gained in a step, so that what they were at the peak is at most what they are now.
            found["transient_bytes"] = max(0, peak - after.file - loaded.anonymous - cache)
    return {"times": times, "loaded_at": moment, "hashed_bytes": opened.hashed_bytes, "memory": found}


def filler(vocab_size: int, count: int) -> list[int]:
    """Ids that cost what a text costs: spread over the vocabulary, the same on every machine."""
    return [(7919 * (i + 1)) % vocab_size for i in range(count)]


def read_bytes() -> int | None:
    """Bytes that this process had fetched from storage so far."""
    try:
        text = Path("/proc/self/io").read_text(encoding="ascii")
        return int(dict(line.split(": ") for line in text.splitlines())["read_bytes"])
    except (OSError, ValueError, KeyError):
        return None


def evict(bundle: Path) -> bool:
    """Ask the kernel to drop a bundle's files, and its packed weights, from the page cache; False where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    manifest, digest = read_manifest(bundle, check_files=False)
    files = [bundle / name for name in manifest.files]
    for folder, _, _ in cache.held(digest):
        files += [path for path in folder.iterdir() if path.is_file()]
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def _child(bundle: Path, engine: str, threads: int, prefix: int, steps: int, target: str = AUTO) -> dict[str, Any]:
    arguments = [str(bundle), engine, str(threads), str(prefix), str(steps), target]
    started = time.time()
    run = subprocess.run([sys.executable, "-m", __spec__.name, *arguments], capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        how = f"exited with status {run.returncode}" if run.returncode > 0 else f"was killed by signal {-run.returncode}"
        raise EngineError(f"{bundle}: a fresh process that loads it with {engine} {how}: {last}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    found["times"]["process_s"] = found["loaded_at"] - started
    return found


def load_times(
    bundle: Path, engine: str, threads: int, prefix: int, repeats: int, target: str = AUTO
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load times, cold once and warm (quartiles of up to `repeats`, fewer when a load is slow), and the last one's memory.

    Raises:
        EngineError: the process failed, with its last line.
    """
    manifest, digest = read_manifest(bundle, check_files=False)
    cold, kept = None, bool(cache.held(digest))
    if evict(bundle):
        hash_records.forget(bundle / name for name in manifest.files)
        first = _child(bundle, engine, threads, prefix, 1, target)
        cold = {**first["times"], "read_bytes": first["memory"]["read_bytes"], "hashed_bytes": first["hashed_bytes"]}
    packed = PACKED.get((kept, bool(cache.held(digest))), "lost")
    runs = [_child(bundle, engine, threads, prefix, 2, target)]
    while len(runs) < repeats and runs[0]["times"]["load_s"] < _SLOW / repeats:
        runs.append(_child(bundle, engine, threads, prefix, 2, target))
    warm = {name: asdict(quartiles([run["times"][name] for run in runs])) for name in runs[0]["times"]}
    means = COLD if cold else "not known on this system"
    found: dict[str, Any] = {"cold_means": means, "packed_weights": packed, "cold": cold, "warm": warm}
    found["warm_hashed_bytes"] = runs[-1]["hashed_bytes"]
    found["file_bytes"] = sum(entry.size for entry in manifest.files.values())
    return found, runs[-1]["memory"]


if __name__ == "__main__":
    from dgemma.benchmarks.report import one_line_errors

    with one_line_errors():
        path, engine_name, *numbers, target_name = sys.argv[1:]
        count, behind, run_steps = map(int, numbers)
        print(json.dumps(probe(Path(path), engine_name, count, behind, run_steps, target_name)))
