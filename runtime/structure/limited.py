"""A separate program that runs another one with limits of memory and of time, where the system can limit them.

    python limited.py PROGRAM

It imports nothing of dgemma.
"""

from __future__ import annotations

import contextlib
import runpy
import sys

MEMORY, SECONDS = 2 << 30, 20  # bytes, and of the processor


def run() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    runpy.run_path(sys.argv[1], run_name="__main__")


if __name__ == "__main__":
    run()
