"""The cure that names an extra: a command that works here, and never a name that no index has."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from dgemma import __version__
from dgemma.core import install
from dgemma.core.install import pip_install


class Distribution(metadata.Distribution):
    """An installed dgemma whose installer noted where it came from."""

    def __init__(self, direct_url: str | None) -> None:
        self.direct_url = direct_url

    def read_text(self, filename: str) -> str | None:
        return {"direct_url.json": self.direct_url, "METADATA": f"Version: {__version__}"}.get(filename)

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module lies in site-packages, away from any checkout."""
    place = tmp_path / "lib" / "python" / "site-packages" / "dgemma" / "core" / "install.py"
    monkeypatch.setattr(install, "__file__", str(place))
    monkeypatch.chdir(tmp_path)
    return place


def note_that(monkeypatch: pytest.MonkeyPatch, *notes: str | None) -> None:
    """One installed dgemma for each note, in the order in which they are found."""
    monkeypatch.setattr(metadata, "distributions", lambda name: [Distribution(note) for note in notes])


def test_a_checkout_is_named(repo_root: Path) -> None:
    assert pip_install("onnx") == f"pip install -e '{repo_root}[onnx]'"


def test_the_wheel_that_was_installed_is_named(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "with space" / f"dgemma-{__version__}-py3-none-any.whl"
    wheel.parent.mkdir()
    zipfile.ZipFile(wheel, "w").close()
    note = json.dumps({"archive_info": {}, "url": wheel.as_uri()})
    note_that(monkeypatch, note)
    assert shlex.split(pip_install("export")) == ["pip", "install", f"{wheel}[export]"]
    wheel.unlink()  # gone: its usual name tells what to look for
    assert pip_install("export") == f"pip install 'dgemma-{__version__}-py3-none-any.whl[export]'"


@pytest.mark.parametrize("note", [None, "", "{", '{"url": "https://host.invalid/dgemma.whl"}'])
def test_what_the_installer_did_not_note(note: str | None, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_that(monkeypatch, note)
    assert pip_install("onnx") == f"pip install 'dgemma-{__version__}-py3-none-any.whl[onnx]'"


def test_an_egg_info_without_a_note_hides_no_other(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_that(monkeypatch, None, json.dumps({"dir_info": {}, "url": tmp_path.as_uri()}))
    assert shlex.split(pip_install("onnx")) == ["pip", "install", f"{tmp_path}[onnx]"]


@pytest.mark.parametrize(
    ("text", "named"),
    [('[project]\nname = "dgemma"\n', True), ('[project]\nname = "other"\n', False), ("project = 3", False), ("[", False)],
)
def test_the_checkout_in_the_current_folder_is_named(
    text: str, named: bool, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_that(monkeypatch, None)
    (tmp_path / "pyproject.toml").write_text(text)
    source = tmp_path if named else f"dgemma-{__version__}-py3-none-any.whl"
    assert shlex.split(pip_install("onnx")) == ["pip", "install", f"{source}[onnx]"]


def test_a_copy_that_no_installer_made(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_that(monkeypatch)
    assert pip_install("onnx") == "pip install 'dgemma.whl[onnx]'"


def test_once_published_the_name_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PUBLISHED", True)
    assert pip_install("onnx") == "pip install 'dgemma[onnx]'"


def test_no_message_words_it_itself(repo_root: Path) -> None:
    rooms = ("src/dgemma/core", "src/dgemma/cli", "model", "quantize", "export", "runtime", "reference", "verify", "benchmarks")
    texts = {p: p.read_text() for room in rooms for p in (repo_root / room).rglob("*.py")}
    assert [p.name for p, text in texts.items() if re.search(r"install .?dgemma\[", text)] == ["install.py"]
