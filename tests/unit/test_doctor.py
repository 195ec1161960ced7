"""`dgemma doctor`, `dgemma help`, and what each finding advises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma.cli import COMMANDS, dispatch, doctor
from dgemma.core import machine, memory
from dgemma.runtime import cache
from dgemma.runtime.native import build


def by_name() -> dict[str, doctor.Finding]:
    return {one.name: one for one in doctor.findings()}


def test_it_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("onnx", "executorch", "native library", "experts", "processor", "memory", "cache", "disk"):
        assert any(line.startswith(name) for line in text.splitlines()), name
    assert dispatch(["doctor", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["usable"] is True
    assert [one["name"] for one in values["findings"]] == list(by_name())


def test_without_engines_it_fails_and_says_how_to_install_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda package: None)
    monkeypatch.setattr(doctor, "EXTRAS", {})
    assert dispatch(["doctor"]) == 1
    printed = capsys.readouterr()
    assert "native library  not needed without executorch\n" in printed.out and "headers" not in printed.out
    assert "onnxruntime is not installed" in printed.out and printed.out.count("pip install") == 2
    assert printed.err == "no engine is installed, so no bundle can run\n"


def test_extras_say_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"serve": "serving", "tune": "tuning"})
    monkeypatch.setattr(doctor, "packages_by_extra", lambda: {"serve": {"pytest", "not-there"}, "tune": {"pytest"}})
    found = by_name()
    assert found["extra tune"].works and found["extra tune"].state == "installed, for tuning"
    lacks = found["extra serve"]
    assert not lacks.works and lacks.state == "for serving: not-there is not installed" and "serve" in lacks.advice


def test_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "_compiler", _no_compiler)
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"avx2"})
    found = by_name()
    assert not found["native library"].works and not found["experts"].works
    assert found["experts"].advice == "without it, quantized mixtures of experts do not run"
    assert "no VNNI" in found["processor"].advice
    assert found["cache"].state.startswith(f"{tmp_path / 'empty'}, 0 MB") and found["cache"].works
    assert not (tmp_path / "empty").exists()  # nothing is written
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil_usage(10))
    assert "free some space" in by_name()["disk"].advice
    monkeypatch.setenv(memory.SWITCH, "0")
    assert by_name()["memory"].advice.startswith("DGEMMA_CHECK_MEMORY=0 is set")
    monkeypatch.setattr(memory, "available", lambda: None)
    assert by_name()["memory"].state == "this system does not tell how much is free"
    monkeypatch.setattr(cache, "enabled", lambda: False)
    assert not by_name()["cache"].works and "disk" not in by_name()


def _no_compiler() -> str:
    raise build.Unavailable("no C++ compiler; install g++")


class shutil_usage:  # stands for a named tuple
    def __init__(self, free: int) -> None:
        self.free = free


def test_help_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert dispatch(["help", "doctor"]) == 0
    assert "--json" in capsys.readouterr().out
    assert dispatch(["help", "nothing"]) == 2
    assert "unknown command 'nothing'" in capsys.readouterr().err
