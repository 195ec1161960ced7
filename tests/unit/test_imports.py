"""What an import loads, and that rooms import one way. Each import runs in its own process: this one has torch long since."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HEAVY = ("torch", "torchao", "onnx", "onnxruntime", "onnxscript", "executorch", "transformers", "jax", "matplotlib", "pandas")


def loaded(statement: str, root: Path) -> set[str]:
    """Top-level names of the heavy modules that `statement` loads in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted(m for m in {HEAVY!r} if m in sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=root / "tests")
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import dgemma",
        "import dgemma.runtime",
        "from dgemma.runtime.session import Session",
        "from dgemma import Session, DgemmaError",
        "import dgemma.cli",
        "import dgemma.core.config, dgemma.core.manifest, dgemma.core.noise, dgemma.core.trajectory",
        "import dgemma.benchmarks.bench.run, dgemma.benchmarks.eval.run, dgemma.benchmarks.plan.predict",
        "import dgemma.benchmarks.demo",
    ],
)
def test_import_loads_nothing_heavy(statement: str, repo_root: Path) -> None:
    assert loaded(statement, repo_root) == set()


def test_the_check_sees_a_heavy_import(repo_root: Path) -> None:
    assert "torch" in loaded("import dgemma.model.denoiser", repo_root)


LINTER = Path(sys.executable).with_name("lint-imports")


def lint(config: Path, root: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    command = [str(LINTER), "--no-cache", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=root)


def test_rooms_import_one_way(repo_root: Path) -> None:
    run = lint(repo_root / "pyproject.toml", repo_root)
    assert run.returncode == 0, run.stdout[-2000:]


def test_all_of_the_benchmarks_but_the_studies_is_held_to_the_contract(repo_root: Path) -> None:
    config = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    (held,) = (c["source_modules"] for c in contracts if c["name"] == "benchmarks stand on runtime")
    folder = repo_root / "benchmarks"
    rooms = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    assert set(held) == {f"dgemma.benchmarks.{name}" for name in rooms - {"__init__", "studies"}}


def test_the_linter_sees_the_rooms_behind_their_links(repo_root: Path, tmp_path: Path) -> None:
    config = tmp_path / "importlinter.ini"
    config.write_text(
        "[importlinter]\nroot_package = dgemma\n\n[importlinter:contract:1]\nname = must break\ntype = forbidden\n"
        "source_modules =\n    dgemma.model\nforbidden_modules =\n    dgemma.core\n"
    )
    run = lint(config, repo_root)
    assert run.returncode == 1, run.stdout[-2000:]
    assert "must break BROKEN" in run.stdout
