"""Which slow tests a change touches."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import touched


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("export/onnx/head.py", "dgemma.export.onnx.head"),
        ("export/__init__.py", "dgemma.export"),
        ("src/dgemma/core/errors.py", "dgemma.core.errors"),
        ("tests/support/micro.py", "micro"),
        ("README.md", None),
    ],
)
def test_files_have_the_names_that_tests_import(path: str, name: str | None) -> None:
    assert touched.module(path) == name


def test_slow_tests_that_changed_come_before_those_that_import_what_changed(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "unit"
    folder.mkdir(parents=True)
    slow = "import pytest\n@pytest.mark.slow\ndef test_it():\n    "
    (folder / "test_a.py").write_text(slow + "from dgemma.export import pipeline\n")
    (folder / "test_b.py").write_text(slow + "pass\n")
    (folder / "test_c.py").write_text("from dgemma.export import pipeline\n")  # nothing slow in it
    (folder / "test_d.py").write_text(slow + "import dgemma.runtime\n")
    found = touched.touched(["export/pipeline.py", "tests/unit/test_b.py", "docs/a.md"], tmp_path)
    assert [file.name for file in found] == ["test_b.py", "test_a.py"]
    assert touched.touched(["docs/a.md"], tmp_path) == []


def test_the_change_is_what_git_says(tmp_path: Path) -> None:
    def git(*args: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *args], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "-A")
    git("commit", "-m", "one")
    assert touched.changed("HEAD^", tmp_path) is None
    (tmp_path / "b").write_text("1")
    git("add", "-A")
    git("commit", "-m", "two")
    assert touched.changed("HEAD^", tmp_path) == ["b"]


def test_a_file_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    file = tmp_path / "test_long.py"
    file.write_text("import time, pytest\n@pytest.mark.slow\ndef test_it():\n    time.sleep(60)\n")
    began = time.monotonic()
    assert touched.run(file, 3, tmp_path)[0] is None
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("fails", [False, True])
def test_every_file_is_run_and_one_that_fails_fails_all(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"test_{name}.py" for name in "ab"]
    for file in files:
        own = f"assert os.environ['DGEMMA_TEST_BUNDLES'] and not ({fails} and {file.stem[-1] == 'a'})"
        file.write_text(f"import os, pytest\n@pytest.mark.slow\ndef test_it():\n    {own}\n")
    monkeypatch.setattr(touched, "ROOT", tmp_path)
    monkeypatch.setattr(touched, "changed", lambda base: ["a.py"])
    monkeypatch.setattr(touched, "touched", lambda paths: files)
    monkeypatch.setattr(sys, "argv", ["touched.py"])
    assert touched.main() == int(fails)
    said = capsys.readouterr().out
    assert all(f"slow tests: {file.name}" in said for file in files) and said.count("1 passed") == 2 - fails
    monkeypatch.setattr(sys, "argv", ["touched.py", "--minutes", "0"])
    assert touched.main() == 0
    assert capsys.readouterr().out.count("left out") == 2
