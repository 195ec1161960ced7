"""Bad input and accidents during an export: one line, the right status, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import micro
import pytest

from dgemma.cli import dispatch
from dgemma.core.errors import ExportError
from dgemma.export import pipeline, room
from dgemma.export.graphs import specs


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return micro.save(tmp_path / "micro")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder to export into."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def no_lowering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowering writes an empty file; for what happens before and after it."""

    def lower(engine: str, request: Any, weights: Any, stage: Path, progress: Any) -> Any:
        (stage / "g.bin").write_bytes(b"graph")
        return {
            name: pipeline.GraphSpec(file="g.bin", inputs=tuple(i), outputs=tuple(o))
            for name, (i, o) in specs(request.config, request.shapes, request.sampler).items()
        }, {}

    monkeypatch.setattr(pipeline, "lower", lower)
    monkeypatch.setattr(room, "at_once", lambda _: False)  # another process would not know of it


def fails(capsys: pytest.CaptureFixture[str], *args: object, says: str, status: int = 2) -> None:
    capsys.readouterr()
    assert dispatch(["export", *map(str, args)]) == status
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if " s  " not in line]  # stages
    assert out == "" and len(lines) == 1 and lines[0].startswith("error: ") and says in lines[0], (out, err)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--engine tpu", "choose onnx, executorch or all"), ("--recipe w3", "choose fp32, w8, w4-mixed, w4, w4-all"),
        ("--steps 0", "--steps 0"),
        ("--steps 5000", "--steps 5000"), ("--steps x", "--steps"), ("--canvas 0", "--canvas 0"),
        ("--canvas -3", "--canvas -3"),
        ("--context 16", "--context 16"), ("--context 1", "--context 1"), ("--context 129", "exceeds the model's 128"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [False, True])
def test_bad_options(
    options: str,
    says: str,
    dry: bool,
    checkpoint: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are found before a weight is read, and by a dry run as well."""
    monkeypatch.setattr(pipeline, "read_weights", lambda *_: pytest.fail("weights were read"))
    fails(capsys, checkpoint, "--out", place / "b", *options.split(), *(["--dry-run"] if dry else []), says=says)
    assert not list(place.iterdir())


def test_a_preset_needs_random_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, "2b", "--out", place / "b", says="--random-weights")
    fails(capsys, place / "none", "--out", place / "b", says="no such checkpoint folder")
    fails(capsys, place, "--out", place / "b", says="config.json")


def test_an_archive_is_no_checkpoint(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "a.zip").write_bytes(b"PK")
    fails(capsys, place / "a.zip", "--out", place / "b", says="is a file, not a checkpoint folder; unpack an archive")
    assert dispatch(["quantize", str(place / "a.zip"), "--recipe", "w8", "--out", str(place / "b")]) == 2
    assert "is a file, not a checkpoint folder; unpack an archive" in capsys.readouterr().err


def test_what_is_ignored_is_said_once_on_stderr(checkpoint: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(checkpoint, place / "ckpt"))
    (folder / "model.safetensors.index.json").write_text("{}")
    wanted = "note: weights: model.safetensors; ignored: model.safetensors.index.json"
    for command in (["export", "--dry-run"], ["quantize", "--recipe", "w8"]):
        assert dispatch([*command, str(folder), "--out", str(place / "b")]) == 0
        out, err = capsys.readouterr()
        assert "note:" not in out and err.splitlines().count(wanted) == 1, err
    assert dispatch(["export", "--dry-run", str(place / "b"), "--out", str(place / "c")]) == 0
    assert "ignored" not in capsys.readouterr().err  # of the quantized checkpoint nothing is


def test_a_group_that_does_not_divide(checkpoint: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, checkpoint, "--out", place / "b", "--recipe", "w4-mixed", says="set the recipe's `group` to 16")


def test_a_quantized_checkpoint_keeps_its_recipe(checkpoint: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = place.parent / "store"
    assert dispatch(["quantize", str(checkpoint), "--recipe", "w8", "--out", str(store)]) == 0
    assert dispatch(["export", str(store), "--out", str(place / "b"), "--dry-run"]) == 0
    assert "recipe w8" in capsys.readouterr().out
    fails(capsys, store, "--out", place / "b", "--recipe", "w4", says="was quantized with 'w8'")
    fails(capsys, store, "--out", place / "b", "--random-weights", "1", says="is quantized already")


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _unknown_key(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["novelty"] = 1
    (folder / "config.json").write_text(json.dumps(values))


def _garbage(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(b"\x00 no such thing")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_truncate, "model.safetensors"),
        (_unknown_key, "novelty"),
        (_garbage("config.json"), "config.json"),
        (_garbage("tokenizer.model"), "tokenizer.model"),
        (_garbage("tokenizer.json"), "tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    ],
)
@pytest.mark.usefixtures("no_lowering")
def test_bad_checkpoints(
    spoil: Callable[[Path], None], says: str, checkpoint: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(checkpoint)
    fails(capsys, checkpoint, "--out", place / "b", says=says)
    assert not list(place.iterdir())


def test_a_tokenizer_of_another_model(checkpoint: Path, place: Path, tiny_checkpoint: Path, capsys: Any) -> None:
    shutil.copy(tiny_checkpoint / "tokenizer.model", checkpoint)
    fails(capsys, checkpoint, "--out", place / "b", says="copy the right tokenizer")


def test_bad_places(checkpoint: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "there").write_text("mine")
    (place / "link").symlink_to("nowhere")
    fails(capsys, checkpoint, "--out", place / "there", says="exists already")
    fails(capsys, checkpoint, "--out", place / "link", says="exists already")
    fails(capsys, checkpoint, "--out", place / "no" / "b", says="no such folder")
    fails(capsys, checkpoint, "--out", place / "there" / "b", says="no such folder")
    assert (place / "there").read_text() == "mine"


def test_a_dry_run_writes_nothing(checkpoint: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["export", str(checkpoint), "--out", str(place / "b"), "--dry-run", "--recipe", "w8"]) == 0
    out = capsys.readouterr().out
    assert "recipe w8" in out and f"canvas {micro.N}" in out and f"{micro.T} steps" in out
    assert dispatch(["export", "2b", "--out", str(place / "b"), "--dry-run", "--random-weights", "1"]) in (0, 1)
    assert "26 layers" in capsys.readouterr().out
    assert dispatch(["export", str(checkpoint), "--dry-run"]) == 0 and "recipe fp32" in capsys.readouterr().out
    assert not list(place.iterdir())
    assert dispatch(["export", str(checkpoint)]) == 2 and "--out is missing; name" in capsys.readouterr().err


@pytest.mark.usefixtures("no_lowering")
@pytest.mark.parametrize(
    ("accident", "raised"),
    [
        (RuntimeError("a stage broke"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), ExportError),
        (OSError(errno.EACCES, "denied"), ExportError),
    ],
)
def test_accidents_leave_nothing(accident: BaseException, raised: type[BaseException], checkpoint: Path, place: Path) -> None:
    def finish(stage: Path) -> None:
        assert (stage / "manifest.json").is_file() and stage.parent == place
        raise accident

    with pytest.raises(raised):
        pipeline.export_bundle(checkpoint, place / "b", finish=finish)
    assert not list(place.iterdir())


@pytest.mark.usefixtures("no_lowering")
def test_without_an_accident_the_bundle_is_all_that_is_left(checkpoint: Path, place: Path) -> None:
    pipeline.export_bundle(checkpoint, place / "b", random_weights=3, canvas=8, context=64, steps=2)
    assert [p.name for p in place.iterdir()] == ["b"]
    manifest = json.loads((place / "b" / "manifest.json").read_text())
    assert (manifest["canvas_length"], manifest["context"], manifest["steps"], manifest["sampler"]["steps"]) == (8, 64, 2, 2)
    assert manifest["provenance"] == {"shape_of": "micro", "random_weights": 3}


@pytest.mark.usefixtures("no_lowering")
def test_the_context_that_was_asked_for_is_the_bundles(checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgemma.verify.golden.write", lambda *_: None)  # it would run the graphs
    assert dispatch(["export", str(checkpoint), "--out", str(place / "b"), "--context", "32"]) == 0
    assert json.loads((place / "b" / "manifest.json").read_text())["context"] == 32


@pytest.mark.usefixtures("no_lowering")
def test_the_licence_is_named(checkpoint: Path, place: Path) -> None:
    (checkpoint / "LICENSE").write_text("\n  Apache License\n more\n")
    pipeline.export_bundle(checkpoint, place / "b")
    provenance = json.loads((place / "b" / "manifest.json").read_text())["provenance"]
    assert provenance["licence"] == "Apache License"
    assert set(provenance["files"]) == {"config.json", "generation_config.json", "model.safetensors"}


def command(checkpoint: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "dgemma.cli", "export", str(checkpoint), "--out", str(out), "--engine", "onnx"]


def environment(repo_root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repo_root / "src")}


def test_interrupted_in_the_middle(checkpoint: Path, place: Path, repo_root: Path) -> None:
    """Ctrl-C while graphs are lowered: status 130, one line, and nothing left."""
    process = subprocess.Popen(
        command(checkpoint, place / "b"), env=environment(repo_root), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    assert "onnx: embed" in lines[-1], lines
    time.sleep(0.5)
    assert any(place.iterdir()), "the bundle is built beside its destination"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "error: interrupted")
    assert not list(place.iterdir())


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """32 kB, which no export fits on, nor the table of the micro model."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("known", [True, False])
def test_full_disk(known: bool, checkpoint: Path, small_disk: Path, repo_root: Path) -> None:
    """Refused before work starts; and where the room went only after that was checked, one line and nothing left."""
    out = small_disk / "b"
    program, *arguments = command(checkpoint, out)
    if not known:
        code = "from dgemma.export import room; room.check = lambda *_: None; from dgemma.cli import main; main()"
        arguments = ["-c", code, *arguments[2:]]
    done = subprocess.run([program, *arguments], env=environment(repo_root), capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if " s  " not in line]
    told = f"error: --out {out}: writing takes " if known else f"error: {out}: the disk is full; free space and export again"
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith(told), done.stderr
    assert not list(small_disk.iterdir())
