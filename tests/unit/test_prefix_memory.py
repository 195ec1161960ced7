"""What the prefix's caches take before they are full, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
import sys
import numpy as np
from dgemma.benchmarks.bench.memory import resident
from dgemma.runtime.prefix import zeros
made = zeros((1, 4096, 4, 1024)) if sys.argv[1] == "ours" else np.zeros((1, 4096, 4, 1024), np.float32)
before = resident().anonymous
made[0, ::128] = 1.0  # 32 rows of 16 KB in 64 MB
assert made.sum() == 32 * 4096, made.sum()
print(resident().anonymous - before)
"""


def grown(kind: str) -> int:
    run = subprocess.run([sys.executable, "-c", SCRIPT, kind], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not HUGE.exists(), reason="a kernel without huge pages")
def test_a_cache_takes_the_pages_that_are_written() -> None:
    assert grown("ours") < 2 << 20
    if "[never]" not in HUGE.read_text():
        assert grown("numpy's") > 32 << 20  # what is avoided
