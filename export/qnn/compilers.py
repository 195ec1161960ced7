"""Compilers in child processes, several at a time: each takes one context, and all end with the first that fails."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from dgemma.core.errors import ExportError

PROGRAM = Path(__file__).with_name("compile.py")


class Compilers:
    """Args:
    folder: what the names in jobs are relative to: contexts hold a hash of them.
    said: called with the number of a job and of its graphs that are done; never by two threads together.
    ended: called with the number of a job whose compiler has ended well, likewise.

    Attributes:
    took: by job, for each graph that is done, the compiler's processor seconds and most bytes of memory until then.
    """

    def __init__(self, folder: Path, said: Callable[[int, int], None], ended: Callable[[int], None]) -> None:
        self._folder, self._said, self._ended = folder, said, ended
        self.took = dict[int, list[dict[str, float]]]()
        self._lock, self._running, self._stopped = threading.Lock(), set[subprocess.Popen[str]](), False

    def run(self, jobs: Mapping[int, dict[str, Any]], at_once: int) -> None:
        """Run `compile.py` on every job; raises ExportError with the last words of a compiler that fails."""
        with ThreadPoolExecutor(at_once) as pool:
            try:
                for future in as_completed([pool.submit(self._one, i, job) for i, job in jobs.items()]):
                    future.result()
            finally:
                self._stop()

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _one(self, number: int, job: dict[str, Any]) -> None:
        path, log = self._folder / f"job-{number}.json", self._folder / f"log-{number}.txt"
        path.write_text(json.dumps(job), encoding="utf-8")
        try:
            count, status = self._watch(number, path, log)
            words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        finally:
            path.unlink()
            log.unlink(missing_ok=True)
        graphs = job["graphs"]
        if status != 0 or count != len(graphs):
            reason = words[-1][:300] if words else f"it ended with status {status}"
            name = Path(graphs[min(count, len(graphs) - 1)][0]).name
            raise ExportError(
                f"--target qnn: the NPU's compiler refused {name}: {reason}; use another recipe, or leave --target out"
            )
        with self._lock:
            self._ended(number)

    def _watch(self, number: int, path: Path, log: Path) -> tuple[int, int]:
        """Graphs that a compiler finished, and its exit status."""
        command = [sys.executable, "-P", str(PROGRAM.resolve()), path.name]
        with log.open("wb") as errors:
            with self._lock:
                if self._stopped:
                    return 0, 1
                process = subprocess.Popen(
                    command, cwd=self._folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
                )
                self._running.add(process)
            count = 0
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("done "):
                        count += 1
                        seconds, peak = line.split()[1:3]
                        taken = {"processor_s": float(seconds), "peak_bytes": int(peak)}
                        self.took.setdefault(number, []).append(taken)
                        with self._lock:
                            self._said(number, count)
        with self._lock:
            self._running.discard(process)
        return count, process.returncode
