"""Every program of `examples/` runs and does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(repo_root: Path, name: str, *arguments: str, stdin: str = "") -> str:
    """What a program prints; it must end with status 0."""
    command = [sys.executable, str(repo_root / "examples" / name), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed_and_tested(repo_root: Path) -> None:
    folder = repo_root / "examples"
    listed, tested = (folder / "README.md").read_text(encoding="utf-8"), Path(__file__).read_text(encoding="utf-8")
    for path in folder.iterdir():
        if path.is_file() and path.name != "README.md":
            assert f"`{path.name}`" in listed, f"{path.name} is not in examples/README.md"
            assert f'"{path.name}"' in tested, f"{path.name} has no test"


def test_the_drawing_shows_every_step_and_fetches_nothing(repo_root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "canvas.svg"
    run(repo_root, "draw_canvas.py", str(tiny_bundle), "-p", "How do you say 40228?", "--seed", "1", "--out", str(out))
    svg = out.read_text(encoding="utf-8")
    assert "step&#160;&#160;1" in svg and "eight" in svg and "uncertain" in svg
    assert "url(" not in svg.replace("url(#", "")
    with pytest.raises(AssertionError, match="no such folder"):
        run(repo_root, "draw_canvas.py", str(tmp_path / "absent"), "-p", "x", "--out", str(out))
