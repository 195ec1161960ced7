"""The runner of the suites: its counts, its exit status, and what it says of tools that are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import packages
import pytest
from program import load

XML = """<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase>
<testcase name="c"><skipped/></testcase><testcase name="d"><error/></testcase></testsuite></testsuites>"""


@pytest.fixture(scope="module")
def run(repo_root: Path) -> ModuleType:
    return load(repo_root / "tests" / "run.py")


def test_reports_are_counted(run: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "TEST-a.xml").write_text(XML)
    assert str(run.read(tmp_path.glob("*.xml"))) == "1 passed, 2 failed, 1 skipped"


def test_a_command_that_fails_without_a_failed_test_is_a_failure(run: ModuleType) -> None:
    assert run.judged(run.Counts(passed=3), 1) == run.Counts(passed=3, failed=1)
    assert run.judged(run.Counts(passed=3, failed=2), 1) == run.Counts(passed=3, failed=2)
    assert run.judged(run.Counts(passed=3), 0) == run.Counts(passed=3)


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


STATES = [
    ((), ["Java (install openjdk-17-jdk-headless and maven)", "the Android app (install openjdk-17-jdk-headless, maven, aapt"]),
    (("javac",), ["Java (install maven)", "the Android app (install maven, aapt"]),
    (("javac", "mvn"), ["the Android app (install aapt and android-framework-res)"]),
    (("javac", "mvn", "aapt2", "framework"), []),
]


@pytest.mark.parametrize("ci", [False, True])
@pytest.mark.parametrize(("tools", "lines"), STATES, ids=["none", "jdk", "maven", "all"])
def test_missing_tools(
    run: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tools: tuple[str, ...],
    lines: list[str],
    ci: bool,
) -> None:
    """What is left out is said and counted, as failed in CI; the rest runs."""
    demo = tmp_path / "android_demo"
    for name in (*tools, "make"):
        tool(tmp_path, name, "exit 0")
    if "mvn" in tools:
        reports = demo / "runtime" / "target" / "surefire-reports"
        reports.mkdir(parents=True)
        (reports / "TEST-old.xml").write_text(XML)  # of a run before: must not count
        tool(tmp_path, "mvn", f"echo mvn \"$@\"; echo '<a><testcase/><testcase/></a>' > '{reports}/TEST-new.xml'")
    monkeypatch.setattr(run, "POM", demo / "pom.xml")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setitem(packages.FILES, "android-framework-res", tmp_path / "framework")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MAKE", raising=False)
    monkeypatch.setenv("CI", "true" if ci else "")
    status = run.main(["java"])
    printed = capfd.readouterr().out.splitlines()
    said = [line for line in printed if line.startswith(("left out: ", "failed: "))]
    assert len(said) == len(lines)
    for line, expected in zip(said, lines, strict=True):
        part, _, cure = expected.partition(" (")
        assert part in line and cure in line
        assert line.startswith("failed: " if ci else "left out: ")
    passed = 2 if "mvn" in tools else 0
    assert printed[-1] == f"{passed} passed, {len(lines) if ci else 0} failed, {0 if ci else len(lines)} skipped"
    assert status == int(ci and bool(lines))
    if "mvn" in tools:
        assert any(line.startswith("mvn ") and ("-pl !app" in line) == ("aapt2" not in tools) for line in printed)


def test_an_unknown_part_is_one_line(repo_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repo_root / "tests" / "run.py"), "rust"], capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stderr) == (1, "error: no part rust; there are python, java\n")


INTERRUPTED = """
import signal, subprocess, sys

def test_a_child_can_be_interrupted():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); input()"
    assert subprocess.run([sys.executable, "-c", code], timeout=20).returncode == -signal.SIGINT
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_children_can_be_interrupted_under_nohup(repo_root: Path, tmp_path: Path) -> None:
    shutil.copy(repo_root / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_interrupted.py").write_text(INTERRUPTED)
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    found = os.pathsep.join(str(repo_root / name) for name in ("src", "tests/support"))
    done = subprocess.run(
        [sys.executable, "-c", code, *command[1:]],
        env={**os.environ, "PYTHONPATH": found},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_tiny_is_exported_once_for_both_suites(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless there is no Java, the export fails, or there is a bundle that may be of an older exporter."""
    place = tmp_path / "build" / "tiny.dgemma"
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MAKE", raising=False)
    tool(tmp_path, "make", "exit 1")
    assert run.shared_bundle() == {}  # no Java
    tool(tmp_path, "javac", "")
    tool(tmp_path, "mvn", "")
    assert run.shared_bundle() == {}  # no bundle
    tool(tmp_path, "make", "exit 0")
    assert run.shared_bundle() == {"DGEMMA_TINY_BUNDLE": str(place)}
    place.mkdir(parents=True)
    assert run.shared_bundle() == {}
