"""Packed weights of a `.pte` in the cache: made once, then mapped; made again when damaged, done without when they must."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import micro_bundle
import pytest
import shared

from dgemma.core.errors import DgemmaWarning
from dgemma.runtime import cache
from dgemma.runtime.engines import executorch
from dgemma.runtime.native import build, packed
from dgemma.runtime.session import Session

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="builds the library, which takes a C++ compiler",
)


@pytest.fixture(scope="module")
def library() -> Path:
    pytest.importorskip("executorch")
    return shared.native_library()


def micro() -> Path:
    """Its weights of eight bits are packed as those of float32 are."""
    return micro_bundle.bundle("executorch", "w8")


@pytest.fixture(autouse=True)
def place(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache entry of the bundle, whose size would not be worth one; the library is ready."""
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DGEMMA_NATIVE", "1")
    monkeypatch.setattr(executorch, "CACHE_FROM", 0)
    monkeypatch.setattr(build, "library", lambda: library)
    with Session.load(micro(), engine="executorch") as session:
        return cache.entry(session.bundle.digest, "executorch", session.engine_version)


def answer() -> tuple[bytes, bytes]:
    """Entropies and canvases of a generation by each loop."""
    with Session.load(micro(), engine="executorch", threads=1) as session:
        found = [session.generate([1, 2, 3], loop=loop, raw=True, trace=True, adaptive=False) for loop in ("host", "graph")]
        traces = [r.trajectory for r in found]
        assert traces[0] is not None and traces[1] is not None
        return traces[0].entropy.tobytes() + traces[0].canvas_out.tobytes(), traces[1].canvas_out.tobytes()


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes]:
    """The answer without a file of packed weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executorch, "CACHE_FROM", 1 << 60)
        return answer()


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is packed."""
    made: list[Path] = []
    pack = packed._pack

    def counted(library: Path, file: Path, target: Path, methods: Sequence[str]) -> None:
        made.append(target)
        pack(library, file, target, methods)

    monkeypatch.setattr(packed, "_pack", counted)
    return made


def test_weights_are_packed_once_and_mapped(place: Path, wanted: tuple[bytes, bytes], packs: list[Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer() == wanted
        before = (place / packed.FILE).read_bytes()
        assert answer() == wanted
    assert len(packs) == 1
    assert (place / packed.FILE).read_bytes() == before, "a sealed file must not be written"
    digest = place.name.split("-")[0]
    assert sorted(p.name for p in place.parent.glob(f"{digest}*")) == [place.name, place.name + ".lock"]


def test_the_file_is_what_is_read(place: Path, wanted: tuple[bytes, bytes]) -> None:
    """Control of the others: with other weights in a file that is sealed all the same, the answer is another."""
    answer()
    file = place / packed.FILE
    data = bytearray(file.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    file.write_bytes(data)
    cache.seal(place)
    assert answer() != wanted


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4096])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def gone(file: Path) -> None:
    file.unlink()


def unsealed(file: Path) -> None:
    (file.parent / cache.SEAL).unlink()


@pytest.mark.parametrize("harm", [truncated, emptied, garbage, zeroed, gone, unsealed])
def test_a_damaged_entry_is_made_again(
    place: Path, wanted: tuple[bytes, bytes], packs: list[Path], harm: Callable[[Path], None]
) -> None:
    answer()
    harm(place / packed.FILE)
    with pytest.warns(DgemmaWarning, match="is damaged"):
        assert answer() == wanted
    assert answer() == wanted
    assert len(packs) == 2


@pytest.mark.parametrize("harm", [truncated, emptied, garbage, zeroed])
def test_xnnpack_refuses_what_a_wrong_seal_lets_through(
    place: Path, wanted: tuple[bytes, bytes], harm: Callable[[Path], None]
) -> None:
    answer()
    harm(place / packed.FILE)
    cache.seal(place)
    assert answer() == wanted


def test_no_room_and_no_folder(
    place: Path, wanted: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cache, "room", lambda path, size: False)
        with pytest.warns(DgemmaWarning, match=r"no room .*GB\)"):
            assert answer() == wanted
        assert not place.exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(DgemmaWarning, match="cannot be saved"):
        assert answer() == wanted
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / ("x" * 120) / ("y" * 120)))
    with pytest.warns(DgemmaWarning, match="too long"):
        assert answer() == wanted


def limited(results: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        results.put((answer(), [str(w.message) for w in said]))


def test_a_disk_that_is_full(place: Path, wanted: tuple[bytes, bytes]) -> None:
    """Files may not grow beyond a part of the weights: XNNPACK gives up writing, and what it wrote is not kept."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=limited, args=(results,))
    process.start()
    found, said = results.get(timeout=60)
    process.join(60)
    assert found == wanted
    assert len(said) == 1 and "could not write" in said[0]
    assert not place.exists()


def test_a_disk_that_fills_up_ends_no_process_but_its_own(
    place: Path, wanted: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -BUS $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.warns(DgemmaWarning, match="ended with status -7"):
        assert answer() == wanted
    assert not place.exists()


def race(barrier: Any, results: Any) -> None:
    barrier.wait(60)
    path = micro()
    with Session.load(path, engine="executorch", threads=1) as session:
        tokens = session.generate([1, 2, 3], raw=True, adaptive=False).tokens
        barrier.wait(60)
        mapped = packed.FILE in Path("/proc/self/maps").read_text()
        barrier.wait(60)  # all of them still hold it
    results.put((tokens, mapped, os.getpid()))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the maps of a process")
def test_processes_that_race_share_one_file(place: Path) -> None:
    micro()
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    racers = [context.Process(target=race, args=(barrier, results)) for _ in range(3)]
    for racer in racers:
        racer.start()
    found = [results.get(timeout=90) for _ in racers]
    for racer in racers:
        racer.join(60)
    assert len({tokens for tokens, _, _ in found}) == 1
    assert all(mapped for _, mapped, _ in found)
    assert sorted(p.name for p in place.parent.iterdir()) == [place.name, place.name + ".lock"]


def test_a_killed_build_leaves_nothing_that_loads(place: Path, wanted: tuple[bytes, bytes]) -> None:
    code = (
        "import os, sys\nsys.path[:0] = ['src', 'tests/support']\n"
        "from pathlib import Path\nfrom dgemma.runtime import cache\nfrom dgemma.runtime.native import packed\n"
        "def die(entry): os._exit(9)\n"
        "cache.seal = die\n"
        "packed.PackedProgram(*map(Path, sys.argv[1:4]), ['encode', 'denoise'])"
    )
    file = micro() / "executorch" / "model.pte"
    command = [sys.executable, "-c", code, str(build.library()), str(file), str(place)]
    assert subprocess.run(command, env=os.environ, cwd=Path(__file__).parents[2]).returncode == 9
    assert not place.exists()
    assert answer() == wanted
    assert sorted(p.name for p in place.parent.iterdir()) == [place.name, place.name + ".lock"]
