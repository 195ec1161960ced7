"""Hub ids: found in the local cache without a network, or refused with the command that fetches them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import micro
import pytest
import released_folder
from huggingface_hub import constants
from huggingface_hub.errors import IncompleteSnapshotError

from dgemma.cli import dispatch
from dgemma.core.errors import CheckpointError
from dgemma.model import hub
from dgemma.model.hf_config import find_config

REPO, FETCH = released_folder.REPO, f"`hf download {released_folder.REPO}`"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A downloaded model, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = micro.save(tmp_path / "plain")
    (folder / "tokenizer.json").write_text("{}")
    return released_folder.hub_cache(folder, tmp_path / "cache")


def test_an_id_is_its_snapshot(snapshot: Path) -> None:
    assert hub.folder_of(REPO) == snapshot
    assert find_config(REPO) == (micro.CONFIG, micro.POLICY, snapshot)
    assert hub.name_of(snapshot) == REPO


def test_main_decides_which(snapshot: Path) -> None:
    newer = snapshot.with_name("f" * 40)
    newer.mkdir()
    assert hub.folder_of(REPO) == snapshot
    (snapshot.parents[1] / "refs" / "main").write_text(newer.name)
    with pytest.raises(CheckpointError, match=rf"^{newer}: .* is incomplete: config.json is missing \(3 in all\); .*{FETCH}$"):
        hub.folder_of(REPO)


def test_a_folder_of_that_name_comes_first(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(REPO).mkdir(parents=True)
    assert hub.folder_of(REPO) == Path(REPO)
    for path in ("plain", "./a/b", "/a/b", "a/b/c", "../b"):
        assert hub.folder_of(path) == Path(path)


def test_an_id_that_was_not_fetched(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["export", "a/b", "--out", "x"], ["quantize", "a/b", "--recipe", "w8", "--out", "x"], ["plan", "a/b"]):
        assert dispatch(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "a/b: is not a folder, and the hub's cache" in error and "`hf download a/b`" in error


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("cut", ["link", "blob"])
def test_a_download_that_was_cut(snapshot: Path, name: str, cut: str) -> None:
    """Before the link was made, or with its blob lost."""
    path = snapshot / name
    path.resolve().unlink()
    if cut == "link":
        path.unlink()
    with pytest.raises(CheckpointError, match=rf"^{snapshot}: .* is incomplete: {name} is missing \(1 in all\); .*{FETCH}$"):
        hub.folder_of(REPO)


def test_a_shard_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = released_folder.hub_cache(released_folder.make(tmp_path / "plain"), tmp_path / "cache")
    assert hub.folder_of(REPO) == snapshot
    next(iter(sorted(snapshot.glob("model-00003-*")))).unlink()
    with pytest.raises(CheckpointError, match=r"model-00003-of-\d{5}.safetensors is missing \(1 in all\)"):
        hub.folder_of(REPO)


def test_what_the_cache_knows_to_be_missing(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> str:
        raise IncompleteSnapshotError("3 file(s) are missing", snapshot_path=str(snapshot))

    monkeypatch.setattr("huggingface_hub.snapshot_download", look_up)
    with pytest.raises(CheckpointError, match=rf"^{snapshot}: .* is incomplete: files are missing; finish it with {FETCH}$"):
        hub.folder_of(REPO)


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_the_environment_says_where_the_cache_is(snapshot: Path, tmp_path: Path, variable: str) -> None:
    cache = snapshot.parents[2]
    if variable == "HF_HOME":
        cache = cache.rename(tmp_path / "hub")
        snapshot = cache / snapshot.relative_to(tmp_path / "cache")
    value = str(tmp_path if variable == "HF_HOME" else cache)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {variable: value}
    code = f"from dgemma.model.hub import folder_of; print(folder_of({REPO!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(snapshot)
