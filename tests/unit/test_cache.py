"""The cache folder: keys, locks, atomic builds, and what tells a damaged entry from a whole one."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from dgemma.runtime import cache


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    return cache.entry("ab" * 32, "onnx", "1.2.3")


def build(path: Path, **files: bytes) -> None:
    with cache.exclusive(path), cache.building(path) as work:
        for name, data in files.items():
            (work / name).write_bytes(data)


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path))
    assert cache.folder() == tmp_path
    monkeypatch.delenv("DGEMMA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache.folder() == tmp_path / "xdg" / "dgemma"
    assert cache.enabled()
    monkeypatch.setenv("DGEMMA_CACHE", "off")
    assert not cache.enabled()


@pytest.mark.parametrize("home", ["", None])
def test_without_a_home_nothing_is_kept(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a service's user: an empty HOME, or none and no record of the user."""

    def no_record(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DGEMMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    if home is None:
        monkeypatch.setattr(Path, "expanduser", no_record)
    assert not cache.enabled() and cache.held("ab" * 32) == []


def test_an_entry_is_for_one_bundle_engine_version_and_processor(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {
        cache.entry("cd" * 32, "onnx", "1.2.3"),
        cache.entry("ab" * 32, "x", "1.2.3"),
        cache.entry("ab" * 32, "onnx", "2"),
    }
    assert cache.entry("ab" * 32, "onnx", "1.2.3") == place
    monkeypatch.setattr("platform.machine", lambda: "other")
    assert len(others | {place, cache.entry("ab" * 32, "onnx", "1.2.3")}) == 5


def test_a_built_entry_is_sound_and_replaces_the_old_one(place: Path) -> None:
    assert not cache.sound(place)
    build(place, a=b"x" * 10_000, empty=b"")
    assert cache.sound(place)
    build(place, b=b"y")
    assert cache.sound(place)
    assert sorted(p.name for p in place.iterdir()) == ["b", cache.SEAL]


def test_a_build_that_fails_leaves_the_old_entry_and_nothing_else(place: Path) -> None:
    build(place, a=b"old")
    with pytest.raises(ZeroDivisionError):
        fail(place)
    assert cache.sound(place)
    assert (place / "a").read_bytes() == b"old"
    (place.parent / f".{place.name}-killed").mkdir()
    build(place, a=b"new")
    assert {p.name for p in place.parent.iterdir()} == {place.name, place.name + ".lock"}


def fail(path: Path) -> None:
    with cache.exclusive(path), cache.building(path) as work:
        (work / "a").write_bytes(b"new")
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "harm", ["truncated", "grown", "emptied", "head", "tail", "pages", "gone", "seal", "no seal", "[]", "link"]
)
def test_a_damaged_entry_is_not_sound(place: Path, harm: str) -> None:
    data = os.urandom(4_000_000)
    build(place, a=data)
    file, seal = place / "a", place / cache.SEAL
    if harm == "truncated":
        file.write_bytes(data[:-1])
    elif harm == "grown":
        file.write_bytes(data + b"x")
    elif harm == "emptied":
        file.write_bytes(b"")
    elif harm == "head":
        file.write_bytes(b"#" + data[1:])
    elif harm == "tail":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "pages":  # a run of pages that never reached the disk
        file.write_bytes(data[:2_000_000] + bytes(32_768) + data[2_032_768:])
    elif harm == "gone":
        file.unlink()
    elif harm == "seal":
        seal.write_text("{")
    elif harm == "no seal":
        seal.unlink()
    elif harm == "[]":
        seal.write_text("[]")
    else:
        file.unlink()
        file.symlink_to("nowhere")
    assert not cache.sound(place)


def add_one(path: Path, times: int) -> None:
    counter = path.with_name("counter")
    for _ in range(times):
        with cache.exclusive(path):
            counter.write_text(str(int(counter.read_text() or 0) + 1))


def test_one_process_at_a_time_holds_an_entry(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.with_name("counter").write_text("0")
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=add_one, args=(place, 50)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert place.with_name("counter").read_text() == "200"


def test_room_is_asked_where_the_entry_will_be(place: Path) -> None:
    assert cache.room(place, 1)
    assert not cache.room(place, 1 << 60)
