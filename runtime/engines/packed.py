"""onnxruntime's packed weights, kept on this machine: a graph is opened and saved once, and later sessions map the saved file.

A saved graph is an entry of the cache: `model.onnx`, already optimized and with 4-bit weights multiplied out, and
`weights.bin`, with each weight both plain and as its kernel packs it. When onnxruntime opens such a file, it packs each weight
again, compares, and takes the mapped copy. So both forms are read, and a wrong bit in a packed copy is an error. Plain weights
are checked only by the samples of the seal (see `cache`). What two graphs of a bundle share is stored once: the second graph's
model points into the first one's file.
"""

from __future__ import annotations

import gc
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dgemma.runtime import cache
from dgemma.runtime.engines.external_data import Weight, moved, weights
from dgemma.runtime.engines.sessions import open_as_it_is, open_session, release_freed
from dgemma.runtime.signals import raised_in_handler

MODEL, WEIGHTS = "model.onnx", "weights.bin"
BASE = "base.json"  # the seal of the entry that a model points into, as it was
GROWTH = 5  # an entry takes at most so many times the packed weights: 4-bit ones become 8-bit ones and a packed copy
_ALIGNMENT = 4096


class Packed:
    """The saved form of one graph file.

    Args:
        place: folder of the entry, beside that of `base`.
        base: the entry of another graph, which may hold the same weights.
        room: bytes that the entry takes at most, to see whether there is room.
    """

    def __init__(self, place: Path, base: Path | None, room: int) -> None:
        self.place, self.base, self.room = place, base, room

    @property
    def sound(self) -> bool:
        """Whether the entry is there and undamaged, as far as samples tell, and so is what it points into."""
        if not cache.sound(self.place):
            return False
        seal = self.place / BASE
        if not seal.exists():
            return True
        return self.base is not None and cache.sound(self.base) and (self.base / cache.SEAL).read_bytes() == seal.read_bytes()

    def make(self, save: Callable[[Path], None]) -> bool:
        """Make the entry unless it is sound; False, with a warning, where that cannot be.

        `save` opens the graph, saves it at a path, and closes it; it raises OSError.
        """

        def make(stage: Path) -> None:
            save(stage / MODEL)
            _check(stage)
            _place(stage, self.place.name, self.base if self.base is not None and cache.sound(self.base) else None)

        return cache.keep(self.place, self.room, make, lambda: self.sound)

    def open(self, options: Any) -> Any:
        """A session over the entry, which must be sound; None, with a warning, when onnxruntime refuses it."""
        import onnxruntime as ort

        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # done before it was saved
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.place.parent))
        try:
            return open_as_it_is((self.place / MODEL).read_bytes(), options)
        except Exception as error:  # of many kinds
            if raised_in_handler(error):
                raise
            cache.warn(f"{self.place}: was refused ({_line(error)}); using the bundle's own weights")
        with suppress(OSError), cache.exclusive(self.place):
            shutil.rmtree(self.place, ignore_errors=True)
        return None


def save_session(source: Path, out: Path, options: Any) -> None:
    """Open a graph file with these session options, save what onnxruntime makes of it, and close it; raises OSError."""
    options.optimized_model_filepath = str(out)
    for key, value in (
        ("save_external_prepacked_constant_initializers", "1"),
        ("optimized_model_external_initializers_file_name", WEIGHTS),
        ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
    ):
        options.add_session_config_entry(f"session.{key}", value)
    try:
        session = open_session(source, options)
    except Exception as error:  # of many kinds; if the graph is to blame, opening the bundle's own will tell
        if raised_in_handler(error):
            raise
        raise OSError(_line(error)) from None
    del session
    gc.collect()  # its weights are not wanted beside the mapped ones
    release_freed()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _check(stage: Path) -> None:
    """Whether every weight was written: a disk that fills up need be no error to onnxruntime. Raises OSError."""
    end = max((weight.end for weight in weights((stage / MODEL).read_bytes())), default=0)
    held = (stage / WEIGHTS).stat().st_size if end else 0
    if held < end:
        raise OSError(f"only {held} bytes of {end} were written")


def _place(stage: Path, name: str, base: Path | None) -> None:
    """Have the model name its weights relative to the folder of all entries, and take those of `base` where they are equal."""
    model = (stage / MODEL).read_bytes()
    if base is None:
        (stage / MODEL).write_bytes(moved(model, lambda weight: (f"{name}/{WEIGHTS}", [at for at, _ in weight.regions])))
        return
    theirs = {weight.name: weight for weight in weights((base / MODEL).read_bytes())}
    shutil.copyfile(base / cache.SEAL, stage / BASE)
    with _mapped(stage / WEIGHTS) as ours, _mapped(base / WEIGHTS) as shared, (stage / "rest").open("wb") as rest:

        def place(weight: Weight) -> tuple[str, list[int]]:
            known = theirs.get(weight.name)
            if known is not None and _same(weight, known, ours, shared):
                return known.file, [at for at, _ in known.regions]
            offsets = []
            for at, length in weight.regions:
                rest.seek(-(-rest.tell() // _ALIGNMENT) * _ALIGNMENT)
                offsets.append(rest.tell())
                rest.write(ours[at : at + length])
            return f"{name}/{WEIGHTS}", offsets

        (stage / MODEL).write_bytes(moved(model, place))
    os.replace(stage / "rest", stage / WEIGHTS)


def _same(weight: Weight, known: Weight, ours: memoryview, shared: memoryview) -> bool:
    """Whether two weights have the same bytes: the hashes of packed copies tell, else the bytes do."""
    sizes, known_sizes = ([length for _, length in w.regions] for w in (weight, known))
    if weight.keys != known.keys or sizes != known_sizes:
        return False
    (at, length), (there, _) = weight.regions[0], known.regions[0]
    return bool(weight.keys) or ours[at : at + length] == shared[there : there + length]


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        yield view
