"""`tools/install.py`: pip's settings reach uv, and pip does the work where uv cannot be had."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from program import load


@pytest.fixture
def tool(repo_root: Path) -> ModuleType:
    return load(repo_root / "tools" / "install.py")


@pytest.fixture
def ran(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Installs with commands that are noted instead of run; `fails` are words of those that fail."""

    def install(venv: Path, uv: str | None, *fails: str) -> list[list[str]]:
        noted: list[list[str]] = []

        def run(command: list[Any], **_: Any) -> subprocess.CompletedProcess[str]:
            noted.append([str(part) for part in command])
            return subprocess.CompletedProcess(command, int(any(word in noted[-1] for word in fails)), "", "")

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(tool, "show_source", lambda python: 0)
        monkeypatch.setattr(tool.shutil, "which", lambda name, path=None: uv)
        assert tool.install(venv, "onnx") == 0
        return noted

    return install


def test_pips_settings_are_handed_over(tool: ModuleType) -> None:
    listed = """global.index-url='https://a.invalid/simple'
global.extra-index-url='\\nhttps://b.invalid/simple\\nhttps://c.invalid/simple'
global.find-links='/x /y'
install.index-url='https://d.invalid/simple'
:env:.cert='/certs.pem'
:env:.default-timeout='180'
freeze.find-links='/z'
"""
    assert tool.settings(listed) == {
        "UV_DEFAULT_INDEX": "https://d.invalid/simple",
        "UV_INDEX": "https://b.invalid/simple https://c.invalid/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/x,/y",
        "SSL_CERT_FILE": "/certs.pem",
    }
    assert tool.settings("") == {}


def test_they_are_those_that_pip_sees_and_uvs_own_win(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels")
    monkeypatch.setenv("PIP_INDEX_URL", "https://a.invalid/simple")
    found = tool.environment(Path(sys.executable), {"UV_DEFAULT_INDEX": "https://mine.invalid"})
    assert (found["UV_FIND_LINKS"], found["UV_DEFAULT_INDEX"]) == ("/wheels", "https://mine.invalid")


def test_a_folder_of_that_name_does_not_hide_the_package(tool: ModuleType, tmp_path: Path, repo_root: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python, there = tmp_path / "venv" / "bin" / "python", tmp_path / "beside"
    (there / "dgemma" / "docs").mkdir(parents=True)  # as a checkout looks to one who starts beside it
    command = [python, "-c", "import dgemma.core.errors as found; print(found.__file__)"]
    environment = {"PATH": "/usr/bin:/bin"}
    assert subprocess.run(command, cwd=there, env=environment, capture_output=True).returncode != 0
    assert tool.show_source(python) == 0
    done = subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).samefile(repo_root / "src" / "dgemma" / "core" / "errors.py")


def test_uv_does_the_work(ran: Callable[..., list[list[str]]], tmp_path: Path, repo_root: Path) -> None:
    noted = ran(tmp_path, "/bin/uv")
    assert noted[0][1:] == ["-m", "venv", str(tmp_path)]
    assert noted[-1][:3] == ["/bin/uv", "pip", "install"] and noted[-1][-2:] == ["--editable", f"{repo_root}[onnx]"]


@pytest.mark.parametrize(("uv", "fails"), [(None, "uv"), ("/bin/uv", "/bin/uv")])
def test_pip_does_it_where_uv_cannot(
    uv: str | None, fails: str, ran: Callable[..., list[list[str]]], tmp_path: Path, repo_root: Path
) -> None:
    noted = ran(tmp_path, uv, fails)
    assert noted[-1][1:4] == ["-m", "pip", "install"] and noted[-1][-2:] == ["--editable", f"{repo_root}[onnx]"]
