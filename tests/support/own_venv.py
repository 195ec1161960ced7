"""Programs with packages that this environment does not have, in one of their own. Needs the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def lines(*command: str | Path, cwd: Path) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "HF_HUB_OFFLINE")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout.split("\n")[:-1]


def install(folder: Path, *packages: str) -> Path:
    """An environment with packages; its folder of programs. With uv, where it is installed, for pip takes minutes."""
    lines(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    if uv := shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent)):
        lines(uv, "pip", "install", "--quiet", "--python", python, *packages, cwd=folder)
    else:
        lines(python, "-m", "pip", "install", "--quiet", *packages, cwd=folder)
    return python.parent
