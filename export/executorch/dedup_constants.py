"""Stores the bytes of a table once in a `.pte`.

Kernels look a table up among the constants of the program, and XNNPACK has its own copies as named data, whole or in tiles.
Both are stored as an offset and a size, so named data can point into the constants.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from dgemma.export.executorch.pte import Layout

ALIGNMENT = 128  # of segments, as executorch has it
CHUNK = 8 << 20  # bytes read at once


@dataclass(frozen=True, kw_only=True)
class Table:
    """A constant, and the named data that repeats some of its bytes: key → (first byte, bytes)."""

    tensor: Tensor
    parts: dict[str, tuple[int, int]]


def dedup_constants(path: Path, tables: Sequence[Table]) -> int:
    """Rewrite the file in place, since most of it lies before the first repetition; returns the bytes saved. Constants that do
    not repeat a table byte for byte are left alone."""
    with path.open("r+b") as file:
        layout = Layout.read(file)
        spans, base = layout.spans, layout.base
        moved = _repetitions(file, layout, tables)
        starts, end = [], 0
        for i, (_, length) in enumerate(spans):
            starts.append(moved.get(i, end))
            if i not in moved:
                size = end + length
                end = -(-size // ALIGNMENT) * ALIGNMENT
        layout.move(starts, size)
        for i, ((old, length), start) in enumerate(zip(spans, starts, strict=True)):
            if i not in moved and start != old:  # towards the beginning, over what was there before
                for at, chunk in _chunks(file, base + old, length):
                    file.seek(base + start + at)
                    file.write(chunk)
                file.write(bytes(-length % ALIGNMENT))
        file.seek(0)
        file.write(layout.head)
        saved = os.fstat(file.fileno()).st_size - base - size
        file.truncate(base + size)
    return saved


def _repetitions(file: BinaryIO, layout: Layout, tables: Sequence[Table]) -> dict[int, int]:
    """Segment of named data → where the same bytes are among the constants."""
    found = {}
    spans, named, base = layout.spans, layout.named(), layout.base
    for table in tables:
        raw = memoryview(table.tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        start = next((o for o in layout.constants() if _equal(file, base + o, raw)), None)
        for key, (first, size) in table.parts.items():
            if start is None or key not in named:
                continue
            begin, length = spans[named[key]]
            if length == size and _equal(file, base + begin, raw[first : first + size]):
                found[named[key]] = start + first
    return found


def _equal(file: BinaryIO, start: int, data: memoryview) -> bool:
    return all(data[at : at + len(chunk)] == chunk for at, chunk in _chunks(file, start, len(data)))


def _chunks(file: BinaryIO, start: int, length: int) -> Iterator[tuple[int, bytes]]:
    """Bytes of a file in pieces, none of which stays in memory."""
    for at in range(0, length, CHUNK):
        file.seek(start + at)
        yield at, file.read(min(CHUNK, length - at))
