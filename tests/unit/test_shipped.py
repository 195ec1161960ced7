"""The bundle that comes with the package: its name, its place, and that it is what today's exporter makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dgemma import Session
from dgemma.cli import dispatch
from dgemma.core.manifest import list_files, read_manifest
from dgemma.core.shipped import FOLDER, bundle_path, is_shipped
from dgemma.export.request import check

TINY = FOLDER / "tiny.dgemma"
MOST_BYTES = 3_000_000
# Of whoever exported: versions, and hashes of trajectories, whose entropies' last bits are the processor's.
VARIES = ("tools", "digest", "files")


def test_its_name_is_a_bundle_unless_a_folder_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle_path("tiny") == bundle_path(Path("tiny")) == TINY
    assert bundle_path("./b/tiny") == Path("b/tiny") and bundle_path("other") == Path("other")
    (tmp_path / "tiny").mkdir()
    assert bundle_path("tiny") == Path("tiny")
    assert is_shipped(TINY) and not is_shipped(tmp_path / "tiny")


def test_it_is_small_and_holds_nothing_unlisted() -> None:
    manifest, _ = read_manifest(TINY)
    files = {p.relative_to(TINY).as_posix() for p in TINY.rglob("*") if p.is_file()}
    assert files == {"manifest.json", *manifest.files}
    assert sum(p.stat().st_size for p in TINY.rglob("*")) < MOST_BYTES
    assert list(manifest.engines) == ["onnx"] and manifest.quantization["recipe"] == "w8"
    assert manifest.provenance["licence"] == "Apache License" and "golden.npz" in files


def test_it_runs_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["run", "tiny", "-p", "Reverse the word table."]) == 0
    assert capsys.readouterr().out == "elbat\n"
    with Session.load("tiny", threads=1) as session:
        assert session.generate("Reverse the word table.").text == "elbat"


def test_a_run_writes_nothing_below_home_but_our_cache(tmp_path: Path) -> None:
    """Nor does the engine, whose telemetry is off: it would write its device id from the import on."""
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
    env = {**{k: v for k, v in os.environ.items() if k in kept}, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "dgemma.cli", "run", "tiny", "-p", "Reverse the word table."]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "elbat\n"), done.stderr
    files = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    assert [p for p in files if p.parts[:2] != (".cache", "dgemma")] == []


def test_inspect_and_plan_take_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["inspect", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["name"] == "tiny"
    assert dispatch(["inspect", "tiny"]) == 0
    assert "none is stored for a shipped bundle; dgemma verify tiny runs its checks" in capsys.readouterr().out
    assert dispatch(["plan", "tiny", "--json"]) == 0
    assert {p["recipe"] for p in json.loads(capsys.readouterr().out)["predictions"]} == {"w8"}


def test_verify_writes_nothing_into_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "bundles" / "tiny.dgemma"
    shutil.copytree(TINY, copy)
    monkeypatch.setattr("dgemma.core.shipped.FOLDER", copy.parent)
    monkeypatch.chdir(tmp_path)
    assert dispatch(["verify", "tiny", "--engine", "onnx", "--threads", "1"]) == 0
    assert not (copy / "verify.json").exists()


@pytest.mark.parametrize("command", [("export", "tiny", "--out"), ("quantize", "tiny", "--recipe", "w8", "--out")])
def test_it_is_no_checkpoint(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dispatch([*command, "b.dgemma"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: tiny: is shipped as a bundle, not a checkpoint")


def test_it_is_of_todays_checkpoint(tiny_checkpoint: Path) -> None:
    """What takes no lowering to tell: chat, tokenizer, shapes, sampler and the checkpoint's files."""
    manifest, _ = read_manifest(TINY)
    request = check(tiny_checkpoint, engines=("onnx",), recipe="w8")
    text = request.text
    assert text and (text.tokenizer.spec, text.chat) == (manifest.tokenizer, manifest.chat)
    assert (request.config, request.sampler) == (manifest.model, manifest.sampler)
    held = manifest.provenance["files"]
    here = list_files(tiny_checkpoint)
    assert held and all(here[name].sha256 == entry for name, entry in held.items())


def described(bundle: Path) -> dict[str, Any]:
    """What the manifest says, but for what may vary."""
    manifest, _ = read_manifest(bundle)
    return {key: value for key, value in manifest.to_dict().items() if key not in VARIES}


@pytest.fixture(scope="module")
def by_command(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, repo_root: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The export of today, and the command that made it, as `make tiny-bundle` gives it."""
    out = tmp_path_factory.mktemp("app") / "tiny.dgemma"
    arguments = ["export", str(tiny_checkpoint), "--out", str(out), "--engine", "onnx", "--recipe", "w8"]
    environment = {**os.environ, "PYTHONPATH": str(repo_root / "src")}
    command = [sys.executable, "-m", "dgemma.cli", *arguments]
    return out, subprocess.run(command, env=environment, capture_output=True, text=True)


def test_it_is_what_todays_exporter_makes(by_command: tuple[Path, object]) -> None:
    """`make tiny-bundle` renews it. Graphs and weights are held to the byte."""
    exported = by_command[0]
    assert described(TINY) == described(exported)
    held, made = (read_manifest(bundle)[0].files for bundle in (TINY, exported))
    graphs = [name for name in held if name != "golden.npz"]
    assert {name: held[name] for name in graphs} == {name: made[name] for name in graphs if name in made}


def test_the_command_line_prints_stages_and_nothing_else(
    by_command: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = by_command
    stages = [line.split(" s  ", 1)[-1].split(", ")[0] for line in done.stderr.splitlines()]
    quantized = [stage for stage in stages if stage.startswith("quantize: ")]
    pieces = ("embed", "condition", "stack", "head", "graphs")
    assert stages == ["load", *quantized, *(f"onnx: {piece}" for piece in pieces), "golden"]
    assert len(quantized) == len(set(quantized)) > 2
    assert done.returncode == 0 and done.stdout.startswith(f"{out}: ") and done.stdout.count("\n") == 1
