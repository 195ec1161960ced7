"""Runs the slow tests that a change touches, for at most a given time.

    python tests/touched.py [--minutes 15]

A test file with slow tests is touched when it changed, or a module that it imports itself. The change is what came since the
commit that DGEMMA_CI_BASE names; without it, what the last commit changed. Files that the time does not suffice for are named,
and are no failure. What a change touches by way of other modules only `make test-slow` sees.
"""

from __future__ import annotations

import argparse
import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
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


def run(file: Path, seconds: float) -> int | None:
    """pytest's exit status for the slow tests of one file; None if they took longer."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", str(file)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None


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
    failed = 0
    for file in files:
        name = file.relative_to(ROOT)
        left = until - time.monotonic()
        status = run(file, left) if left > 0 else None
        if status is None:
            print(f"slow tests: left out {name}, for the time is over; make test-slow runs all", flush=True)
        failed += status not in (None, 0, NO_TESTS)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
