"""Runs the slow tests that a change touches, for at most a given time.

    python tests/touched.py [--minutes 15]

A test file with slow tests is touched when it changed, or a module that it imports itself. The change is what came since the
commit that DGEMMA_CI_BASE names; without it, what the last commit changed. Files that the time does not suffice for are named,
and are no failure. What a change touches by way of other modules only `make test-slow` sees. As many files run at a time as
there are cores; what they export they share.
"""

from __future__ import annotations

import argparse
import ast
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
NO_TESTS = 5  # pytest's exit status


def changed(base: str, root: Path = ROOT) -> list[str] | None:
    """Paths that differ between the base and HEAD; None where the base is not there, as in a shallow clone."""
    command = ["git", "-C", str(root), "diff", "--name-only", base, "HEAD", "--"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else None


def module(path: str) -> str | None:
    """The name that tests import a file by."""
    pure = PurePosixPath(path)
    if pure.suffix != ".py":
        return None
    parts = pure.with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    if parts[:2] == ("tests", "support"):
        return parts[-1]
    return ".".join(parts[1:] if parts[0] == "src" else ("dgemma", *parts))


def imports(source: str) -> set[str]:
    """Every module that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update((node.module, *(f"{node.module}.{name.name}" for name in node.names)))
    return found


def touched(paths: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Test files with slow tests that changed, then those that import what changed."""
    given = set(paths)
    modules = {name for path in given if (name := module(path))}
    slow = [file for file in sorted(root.glob("tests/**/test_*.py")) if "mark.slow" in file.read_text()]
    own = [file for file in slow if file.relative_to(root).as_posix() in given]
    return own + [file for file in slow if file not in own and imports(file.read_text()) & modules]


def run(file: Path, seconds: float, bundles: Path) -> tuple[int | None, str]:
    """pytest's exit status for the slow tests of one file, None if they took longer, and what it printed.

    Args:
        bundles: a folder, which other files' tests may use at the same time, for what is exported.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", str(file)]
    env = {**os.environ, "DGEMMA_TEST_BUNDLES": str(bundles)}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            said = process.communicate(timeout=seconds)[0]
            return process.returncode, said.decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0].decode(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the slow tests that a change touches.")
    parser.add_argument(
        "--minutes", type=float, default=15, help="start nothing and stop everything after this time (default: 15)"
    )
    until = time.monotonic() + 60 * parser.parse_args().minutes
    base = os.environ.get("DGEMMA_CI_BASE") or "HEAD^"
    paths = changed(base)
    if paths is None:
        print(f"slow tests: left out, for there is no commit {base} here; set DGEMMA_CI_BASE")
        return 0
    files = touched(paths)
    print(f"slow tests: {len(files)} files are touched since {base}", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as workers:

        def passed(file: Path) -> bool:
            left = until - time.monotonic()
            status, said = run(file, left, Path(folder)) if left > 0 else (None, "")
            name = file.relative_to(ROOT)
            late = f"slow tests: left out {name}, for the time is over; make test-slow runs all\n" if status is None else ""
            print(f"slow tests: {name}\n{said}{late}", end="", flush=True)
            return status in (None, 0, NO_TESTS)

        return int(not all(list(workers.map(passed, files))))


if __name__ == "__main__":
    sys.exit(main())
