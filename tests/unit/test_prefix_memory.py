"""What the prefix's caches take before they are full, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
from dgemma.benchmarks.bench.memory import resident
from dgemma.runtime.prefix import zeros
made = zeros((1, 4096, 4, 1024))
before = resident().anonymous
made[0, ::128] = 1.0  # 32 rows of 16 KB in 64 MB
assert made.sum() == 32 * 4096, made.sum()
print(resident().anonymous - before)
made[:] = 1.0
print(resident().anonymous - before)
"""


@pytest.mark.skipif(not HUGE.exists(), reason="a kernel without huge pages")
def test_a_cache_takes_the_pages_that_are_written() -> None:
    """Of numpy's own array all 64 MB are taken where the kernel has huge pages at hand."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    some, whole = map(int, run.stdout.split())
    assert some < 2 << 20 and whole > 60 << 20
