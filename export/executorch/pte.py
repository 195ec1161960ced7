"""Where things are in a `.pte`: its segments, its constants and its named data. Offsets are in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from executorch.exir._serialize._program import _ExtendedHeader, _get_extended_header
from executorch.exir._serialize.generated.executorch_flatbuffer.DataSegment import DataSegment
from executorch.exir._serialize.generated.executorch_flatbuffer.NamedData import NamedData
from executorch.exir._serialize.generated.executorch_flatbuffer.Program import Program
from executorch.exir._serialize.generated.executorch_flatbuffer.SubsegmentOffsets import SubsegmentOffsets

HEADER = 8  # where the header is: behind the flatbuffer's root offset and magic number
_SEGMENTS, _CONSTANTS, _NAMED = 12, 14, 18  # fields of Program in its vtable (program.fbs)
_OFFSET = 4  # of DataSegment


class Layout:
    """The flatbuffer before the segments, for reading and for moving segments."""

    def __init__(self, beginning: bytes) -> None:
        """`beginning` is the file, or so much of it that the flatbuffer is in it."""
        header = _get_extended_header(beginning[:64])
        assert header is not None and header.is_valid(), "no segments"
        self.base, self.head = int(header.segment_base_offset), bytearray(beginning[: header.program_size])
        self._program = Program.GetRootAs(self.head, 0)._tab
        self._segments = list(self._children(_SEGMENTS, DataSegment))

    @classmethod
    def read(cls, file: BinaryIO) -> Layout:
        """Of an open file, whose segments are not read."""
        header = _get_extended_header(file.read(64))
        assert header is not None, "no segments"
        file.seek(0)
        return cls(file.read(header.program_size))

    def _children(self, field: int, kind: Any) -> Iterator[Any]:
        at = self._program.Offset(field)
        for i in range(self._program.VectorLen(at) if at else 0):
            child = kind()
            child.Init(self.head, self._program.Indirect(self._program.Vector(at) + 4 * i))
            yield child

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Per segment its offset from the base, and its size."""
        return [(segment.Offset(), segment.Size()) for segment in self._segments]

    def named(self) -> dict[str, int]:
        """Key → segment."""
        return {entry.Key().decode(): entry.SegmentIndex() for entry in self._children(_NAMED, NamedData)}

    def constants(self) -> list[int]:
        """Offsets of the constants from the base."""
        at = self._program.Offset(_CONSTANTS)
        if not at:
            return []
        found = SubsegmentOffsets()
        found.Init(self.head, self._program.Indirect(at + self._program.Pos))
        first = self.spans[found.SegmentIndex()][0]
        return [first + found.Offsets(i) for i in range(found.OffsetsLength())]

    def move(self, starts: list[int], size: int) -> None:
        """Give segments new offsets, and all segments together a size."""
        for segment, start in zip(self._segments, starts, strict=True):
            if segment.Offset() != start:  # an offset of 0 has no field; it is the first segment's, which stays
                at = segment._tab.Pos + segment._tab.Offset(_OFFSET)
                self.head[at : at + 8] = start.to_bytes(8, "little")
        header = _ExtendedHeader(program_size=len(self.head), segment_base_offset=self.base, segment_data_size=size)
        self.head[HEADER : HEADER + _ExtendedHeader.EXPECTED_LENGTH] = header.to_bytes()
