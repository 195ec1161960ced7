"""An export terminated or killed at ten points: nothing that loads is left, and graceful termination leaves nothing at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dgemma.core.errors import BundleError
from dgemma.core.manifest import read_manifest

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "tiny"


def start(out: Path) -> subprocess.Popen[str]:
    options = ["--engine", "onnx", "--recipe", "w8", "--out", str(out)]
    command = [sys.executable, "-m", "dgemma.cli", "export", str(CHECKPOINT), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def stages(process: subprocess.Popen[str], most: int | None = None) -> int:
    """Lines of progress read until there are `most` of them, or the process ends."""
    assert process.stderr is not None
    count = 0
    while count != most and process.stderr.readline():
        count += 1
    return count


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_nothing_that_loads(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole.dgemma")
    total = stages(whole)
    assert whole.wait() == 0 and total >= 10
    for point in range(10):
        folder = tmp_path / str(point)
        folder.mkdir()
        out = folder / "killed.dgemma"
        process = start(out)
        seen = stages(process, 1 + point * (total - 2) // 9)
        graceful = point % 2 == 0
        process.send_signal(signal.SIGTERM if graceful else signal.SIGKILL)
        assert process.wait() == (143 if graceful else -signal.SIGKILL), seen
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        assert not out.exists()
        left = list(folder.iterdir())
        assert not (graceful and left), left
        for temporary in left:
            with pytest.raises(BundleError):
                read_manifest(temporary)
