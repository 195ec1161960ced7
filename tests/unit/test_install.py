"""The cure that names an extra: a command that works here, and never a name that no index has."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dgemma import __version__, cli
from dgemma.core import install
from dgemma.core.install import pip_install

ROOMS = (
    "src/dgemma/core",
    "src/dgemma/cli",
    "model",
    "quantize",
    "export",
    "runtime",
    "reference",
    "serve",
    "train",
    "verify",
    "benchmarks",
)


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
    assert pip_install("onnx") == "pip install 'dgemma[onnx]'" and pip_install("") == "pip install dgemma"


@pytest.fixture
def declared(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Extra → the packages that pyproject.toml lists for it, also through other extras; the metadata is made to agree."""
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    lines = []
    for extra, requirements in groups.items():
        for requirement in map(Requirement, requirements):
            if extra:
                marker = f"({requirement.marker}) and " if requirement.marker else ""
                requirement.marker = Marker(f'{marker}extra == "{extra}"')
            lines.append(str(requirement))
    monkeypatch.setattr(metadata, "requires", lambda name: lines)

    def packages(extra: str) -> set[str]:
        found = set()
        for requirement in map(Requirement, groups[extra]):
            own = requirement.name == "dgemma"
            found |= set().union(*map(packages, requirement.extras)) if own else {canonicalize_name(requirement.name)}
        return found

    return {extra: packages(extra) for extra in groups}


def imported(repo_root: Path) -> set[str]:
    """Top-level names of the foreign modules that the product imports, lazily or not."""
    names = set()
    for room in ROOMS:
        for path in (repo_root / room).rglob("*.py"):
            if "studies" in path.parts or "example" in path.parts:  # not in the wheel
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"dgemma"}


def test_the_extra_that_is_advised_brings_the_package(repo_root: Path, declared: dict[str, set[str]]) -> None:
    modules = imported(repo_root)
    assert {"jax", "matplotlib", "onnx_ir", "onnxruntime", "safetensors", "tokenizers", "torch"} <= modules
    for module in modules:
        package = {"coremltools": "executorch", "ml_dtypes": "jax", "sympy": "torch"}.get(module, canonicalize_name(module))
        for usual in ("onnx", "export", "reference"):
            assert package in declared[install.extra_with(module, usual)], (module, usual)


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("run", "onnxruntime", "onnx"),
        ("run", "torch", "export"),
        ("run", "rich", ""),
        ("export", "torch", "export"),
        ("verify", "jax", "reference"),
        ("verify", "ml_dtypes", "reference"),
        ("bench", "matplotlib", "bench"),
        ("reference", "flatbuffers", "reference"),
        ("quantize", "nobody_knows", "export"),
    ],
)
def test_what_a_command_advises(
    command: str, module: str, extra: str, declared: dict[str, set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._missing(command, ModuleNotFoundError(name=f"{module}.part")) == 2
    assert capsys.readouterr().err == f"error: `dgemma {command}` needs package {module!r}; {pip_install(extra)}\n"


def test_installed_metadata_is_understood() -> None:
    assert install.extra_with("jax", "onnx") == "reference" and install.extra_with("numpy", "onnx") == ""


def test_without_metadata_the_command_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", none)
    assert install.extra_with("jax", "export") == "export"


def test_no_message_words_it_itself(repo_root: Path) -> None:
    texts = {p: p.read_text() for room in ROOMS for p in (repo_root / room).rglob("*.py")}
    assert [p.name for p, text in texts.items() if re.search(r"pip install .*dgemma[\[{]", text)] == ["install.py"]
