"""The package list is complete, the links lead to the rooms, and a wheel with one engine runs a bundle without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

STUDIES = "dgemma.benchmarks.studies"  # need files of the checkout, and stay out of the wheel
ROOMS = ("model", "quantize", "export", "runtime", "reference", "serve", "train", "verify", "benchmarks")


@pytest.fixture(scope="module")
def project(repo_root: Path) -> dict[str, Any]:
    return tomllib.loads((repo_root / "pyproject.toml").read_text())


def package_folders(root: Path) -> set[str]:
    """Dotted names of all folders with an `__init__.py`, found through the links as an import finds them."""
    source = root / "src"
    found = set()
    for folder, names, files in os.walk(source / "dgemma", followlinks=True):
        names[:] = [n for n in names if n != "__pycache__"]
        if "__init__.py" in files:
            found.add(".".join(Path(folder).relative_to(source).parts))
    return found


def test_every_package_is_listed(project: dict[str, Any], repo_root: Path) -> None:
    product = {name for name in package_folders(repo_root) if not name.startswith(STUDIES)}
    assert set(project["tool"]["setuptools"]["packages"]) == product


def test_every_folder_with_python_files_is_a_package(repo_root: Path) -> None:
    packages = package_folders(repo_root)
    for room in ROOMS:
        for file in (repo_root / room).rglob("*.py"):
            assert ".".join(("dgemma", *file.parent.relative_to(repo_root).parts)) in packages, f"{file} would not be installed"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_a_top_level_folder_behind_a_relative_link(project: dict[str, Any], repo_root: Path, room: str) -> None:
    link = repo_root / "src" / "dgemma" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{room}"
    assert project["tool"]["setuptools"]["package-dir"][f"dgemma.{room}"] == room
    assert room in project["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]


def test_the_base_install_is_light(project: dict[str, Any]) -> None:
    base = " ".join(project["project"]["dependencies"])
    assert not [name for name in ("torch", "onnx", "executorch", "transformers", "jax", "matplotlib") if name in base]


def test_the_shipped_bundle_is_package_data(project: dict[str, Any], repo_root: Path) -> None:
    folder = repo_root / "src" / "dgemma"
    data = {p for pattern in project["tool"]["setuptools"]["package-data"]["dgemma"] for p in folder.glob(pattern)}
    assert {p for p in (folder / "bundles").rglob("*") if p.is_file()} <= data


def test_the_page_of_the_server_is_package_data(project: dict[str, Any], repo_root: Path) -> None:
    folder = repo_root / "serve"
    data = {p for pattern in project["tool"]["setuptools"]["package-data"]["dgemma.serve"] for p in folder.glob(pattern)}
    assert {p for p in (folder / "page").rglob("*") if p.is_file()} == data


def copy_sources(root: Path, to: Path) -> Path:
    """What a wheel is built from, elsewhere: building in place leaves a build/ whose stale files get into later wheels."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "src", *ROOMS):
        source = root / name
        if source.is_dir():
            shutil.copytree(source, to / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, to / name)
    return to


def run(*command: str | Path, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_rooms_are_imported_where_git_wrote_their_links_as_text(repo_root: Path, tmp_path: Path) -> None:
    sources = copy_sources(repo_root, tmp_path)
    for room in ROOMS:
        link = sources / "src" / "dgemma" / room
        target = os.readlink(link)
        link.unlink()
        link.write_text(target)
    code = (
        f"import sys; sys.path.insert(0, {str(sources / 'src')!r})\n"
        f"from importlib.util import find_spec; print(*(find_spec(f'dgemma.{{room}}').origin for room in {ROOMS}), sep='\\n')"
    )
    found = run(sys.executable, "-c", code, cwd=tmp_path / "src")
    assert found.splitlines() == [str(sources / room / "__init__.py") for room in ROOMS]


@pytest.fixture(scope="module")
def wheel(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(repo_root, work / "sources")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work / "dist", sources, cwd=work)
    (built,) = (work / "dist").glob("dgemma-*.whl")
    return built


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_holds_every_module_once(wheel: Path, repo_root: Path) -> None:
    names = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".py")]
    source = repo_root / "src"
    expected = set()
    for folder, _, files in os.walk(source / "dgemma", followlinks=True):
        expected |= {Path(folder, f).relative_to(source).as_posix() for f in files if f.endswith(".py")}
    studies = STUDIES.replace(".", "/")
    assert sorted(names) == sorted(name for name in expected if not name.startswith(studies))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_wheel_with_onnx_alone_runs_a_bundle(wheel: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    bin_ = tmp_path / "venv" / "bin"
    run(bin_ / "python", "-m", "pip", "install", "--quiet", f"{wheel}[onnx]", cwd=tmp_path)
    probe = "import importlib.util as u; print(*[m for m in ('torch', 'onnx', 'executorch', 'transformers') if u.find_spec(m)])"
    assert run(bin_ / "python", "-c", probe, cwd=tmp_path).split() == []
    unwritable = {"HOME": str(tmp_path / "no-such-home"), "PATH": "/usr/bin:/bin"}
    command = [str(bin_ / "dgemma"), "run", "tiny", "-p", "Reverse the word table."]
    subprocess.run(["chmod", "-R", "a-w", tmp_path / "venv"], check=True)
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=unwritable)
    subprocess.run(["chmod", "-R", "u+w", tmp_path / "venv"], check=True)
    assert (first.returncode, first.stdout) == (0, "elbat\n"), first.stderr
    prompt = "Reverse the word banana."
    answer = json.loads(run(bin_ / "dgemma", "run", tiny_bundle, "-p", prompt, "--engine", "onnx", "--json", cwd=tmp_path))
    assert answer["engine"] == "onnx"
    assert answer["steps"] >= 1
    from dgemma.runtime.session import Session

    with Session.load(tiny_bundle, engine="onnx") as session:
        here = session.generate(prompt)
    assert answer["tokens"] == list(here.tokens)
    # An engine that is not installed is one line and status 2, not another engine.
    missing = subprocess.run(
        [str(bin_ / "dgemma"), "run", str(tiny_bundle), "-p", prompt, "--engine", "executorch"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert missing.returncode == 2
    assert len(missing.stderr.strip().splitlines()) == 1
    assert "executorch" in missing.stderr
