"""Records of hashed files: what is hashed a second time, what is not, and what a bad day of the record costs."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_bundle import write_bundle

from dgemma.cli import dispatch
from dgemma.core.errors import BundleError, DgemmaWarning
from dgemma.core.manifest import sha256_file
from dgemma.runtime import hash_records
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.hash_records import HashChecker
from dgemma.runtime.session import Session

DATA = bytes(range(256)) * 40
TICK_S = 0.03  # longer than a file system's clock takes to tick here


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of records; files of any size have them, and all were written ten seconds ago."""
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_records, "RECORD_FROM", 1)
    monkeypatch.setattr(hash_records, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + 10_000_000_000))
    return tmp_path / "cache" / "verified"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, as it happens."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(hash_records, "sha256_file", counted)
    return names


def holds(path: Path, sha256: str, *, by_record: bool = True) -> tuple[bool, bool]:
    """The verdict, and whether it took hashing."""
    checker = HashChecker(by_record=by_record)
    verdict = checker(path, sha256)
    assert checker.hashed_bytes in (0, path.stat().st_size)
    return verdict, checker.hashed_bytes > 0


def test_what_is_unchanged_is_hashed_once(file: Path, folder: Path, hashed: list[str]) -> None:
    sha256 = sha256_file(file)
    assert [holds(file, sha256) for _ in range(3)] == [(True, True), (True, False), (True, False)]
    assert hashed == ["weights"]
    assert holds(file, sha256, by_record=False) == (True, True)  # who asks for hashing gets it
    assert len(list(folder.iterdir())) == 1


def test_another_hash_than_the_recorded_one_is_not_believed(file: Path) -> None:
    assert holds(file, sha256_file(file)) == (True, True)
    assert holds(file, "0" * 64) == (False, True)
    assert holds(file, sha256_file(file)) == (True, True)  # the doubt took the record


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"#")


def flip_and_set_back(path: Path) -> None:
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"#" + DATA[1:])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [flip, flip_and_set_back, replace])
def test_a_changed_byte_is_found(file: Path, change: Callable[[Path], None]) -> None:
    sha256 = sha256_file(file)
    assert holds(file, sha256) == (True, True)
    time.sleep(TICK_S)
    change(file)
    assert file.stat().st_size == len(DATA)
    assert holds(file, sha256) == (False, True)


@pytest.mark.parametrize(("change", "of"), [(flip, ""), (flip_and_set_back, "st_mtime_ns"), (replace, "st_mtime_ns")])
def test_less_in_a_record_would_miss_it(
    file: Path, change: Callable[[Path], None], of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above: size alone, or size and time of the last write, whatever the inode."""
    monkeypatch.setattr(hash_records, "_place", lambda found: file.with_name("record"))
    monkeypatch.setattr(hash_records, "_line", lambda found, sha256: f"{found.st_size} {of and getattr(found, of)} {sha256}")
    sha256 = sha256_file(file)
    assert holds(file, sha256) == (True, True)
    time.sleep(TICK_S)
    change(file)
    assert holds(file, sha256) == (True, False)


@pytest.mark.parametrize("margin", [hash_records.SETTLED_NS, -(10**18)])
def test_a_file_that_was_just_written_is_not_recorded(file: Path, margin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that does not tick between two writes; without the margin the second of them goes unseen."""
    monkeypatch.setattr(hash_records, "time", time)
    monkeypatch.setattr(hash_records, "SETTLED_NS", margin)
    monkeypatch.setattr(hash_records, "_line", lambda found, sha256: f"{found.st_size} {sha256}")
    sha256 = sha256_file(file)
    assert holds(file, sha256) == (True, True)
    flip(file)
    assert holds(file, sha256) == ((False, True) if margin > 0 else (True, False))


def test_a_time_of_writing_to_come_is_not_recorded(file: Path) -> None:
    os.utime(file, (time.time() + 3600, time.time() + 3600))
    assert [holds(file, sha256_file(file)) for _ in range(2)] == [(True, True)] * 2


def test_a_file_that_changes_while_it_is_hashed_is_not_recorded(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = sha256_file(file)

    def slow(path: Path) -> str:
        found = sha256_file(path)
        time.sleep(TICK_S)
        flip(path)
        return found

    monkeypatch.setattr(hash_records, "sha256_file", slow)
    assert holds(file, sha256) == (True, True)  # it was so when it was read
    assert not folder.exists()
    monkeypatch.undo()
    assert not holds(file, sha256)[0]


@pytest.mark.parametrize("damage", ["", "{", "\xff", "0" * 99, "cut", "foreign", "folder"])
def test_a_damaged_record_costs_hashing_again(file: Path, folder: Path, damage: str) -> None:
    sha256 = sha256_file(file)
    holds(file, sha256)
    (place,) = folder.iterdir()
    line = place.read_text()
    assert line.split()[-1] == sha256
    if damage == "folder":
        place.unlink()
        place.mkdir()
        with pytest.warns(DgemmaWarning, match="a file's hash cannot be saved"):
            assert holds(file, sha256) == (True, True)
        return
    if damage == "foreign":  # of a file with the same name on another machine
        damage = line.replace(line.split()[1], str(int(line.split()[1]) - 1))
    place.write_bytes((line[:-9] if damage == "cut" else damage).encode("latin-1"))
    assert holds(file, sha256) == (True, True)
    assert place.read_text() == line
    assert holds(file, sha256) == (True, False)


def test_a_folder_that_cannot_be_written_is_said_and_costs_hashing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no folder").write_bytes(b"")
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "no folder"))
    for _ in range(2):
        with pytest.warns(DgemmaWarning, match=r"no folder/verified: .*set DGEMMA_CACHE to another folder, or to off"):
            assert holds(file, sha256_file(file)) == (True, True)
    assert holds(file, "0" * 64) == (False, True)


@pytest.mark.parametrize("at", ["mkstemp", "replace"])
def test_a_full_disk_is_said_and_leaves_nothing(file: Path, folder: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr({"mkstemp": hash_records.tempfile, "replace": hash_records.os}[at], at, full)
    with pytest.warns(DgemmaWarning, match="No space left"):
        assert holds(file, sha256_file(file)) == (True, True)
    assert not list(folder.iterdir())


def test_switched_off_nothing_is_read_or_written(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = sha256_file(file)
    assert holds(file, sha256) == (True, True)
    (place,) = folder.iterdir()
    before = place.stat().st_ino
    monkeypatch.setenv("DGEMMA_CACHE", "off")
    assert [holds(file, sha256) for _ in range(2)] == [(True, True)] * 2
    assert place.stat().st_ino == before
    assert not Path("off").exists()


def test_small_files_are_always_hashed(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_records, "RECORD_FROM", len(DATA) + 1)
    assert [holds(file, sha256_file(file)) for _ in range(2)] == [(True, True)] * 2
    assert not folder.exists()


def test_without_a_time_of_change_everything_is_hashed(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_records, "sys", SimpleNamespace(platform="win32"))
    assert [holds(file, sha256_file(file)) for _ in range(2)] == [(True, True)] * 2
    assert not folder.exists()


def race(path: Path, sha256: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(100):
            assert HashChecker(by_record=i % 2 == 0)(path, sha256)
            assert not HashChecker(by_record=True)(path, "0" * 64)  # deletes the record


def test_processes_that_race_agree(file: Path, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=race, args=(file, sha256_file(file))) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 3
    assert len(list(folder.iterdir())) <= 1  # no part of a record is left
    holds(file, sha256_file(file))
    assert holds(file, sha256_file(file)) == (True, False)


# ---- bundles ---------------------------------------------------------------------------------------------------------


def test_a_session_goes_by_the_record_and_inspect_does_not(tmp_path: Path, hashed: list[str], capsys: Any) -> None:
    bundle = write_bundle(tmp_path / "toy.dgemma")
    first = Bundle.open(bundle, by_record=True)
    files, size = len(first.manifest.files), sum(entry.size for entry in first.manifest.files.values())
    assert (len(hashed), first.hashed_bytes) == (files, size)
    hashed.clear()
    assert Bundle.open(bundle, by_record=True).hashed_bytes == 0
    with pytest.raises(Exception, match="executorch"):
        Session.load(bundle, engine="executorch")  # which it has not: found after the check of files
    assert hashed == []
    assert dispatch(["inspect", str(bundle)]) == 0
    assert len(hashed) == files
    assert Bundle.open(bundle).hashed_bytes == size
    hash_records.forget(bundle / name for name in first.manifest.files)
    assert Bundle.open(bundle, by_record=True).hashed_bytes == size


def test_damage_without_a_trace_is_for_inspect_to_find(tmp_path: Path, folder: Path, capsys: Any) -> None:
    """A medium that loses bits changes no time: made here by writing the record that such a file would have."""
    bundle = write_bundle(tmp_path / "toy.dgemma")
    name, entry = next((n, e) for n, e in Bundle.open(bundle).manifest.files.items() if n.startswith("onnx/"))
    flip(bundle / name)
    found = (bundle / name).stat()
    (folder / f"{found.st_dev:x}-{found.st_ino:x}").write_text(hash_records._line(found, entry.sha256))
    assert Bundle.open(bundle, by_record=True).hashed_bytes == 0
    assert dispatch(["inspect", str(bundle)]) == 2
    assert "content differs from the manifest (sha256)" in capsys.readouterr().err
    with pytest.raises(BundleError, match="content differs"):  # from now on every load knows
        Bundle.open(bundle, by_record=True)
