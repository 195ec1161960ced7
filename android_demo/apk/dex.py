"""Declarations of and references in a dex file. Format: source.android.com/docs/core/runtime/dex-format.

A reference is an entry of the file's own tables: D8 writes only those that its code, or a declaration, uses.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from classfile import Declared, Member

_NO_INDEX = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class Dex:
    """Classes that a file defines, and the types, methods and fields that it names: owner, member."""

    classes: dict[str, Declared]
    types: frozenset[str]
    methods: frozenset[tuple[str, Member]]
    fields: frozenset[tuple[str, Member]]


def parse(data: bytes) -> Dex:
    """Raises ValueError for what is no dex file, or a damaged one."""
    try:
        return _Reader(data).read()
    except (struct.error, IndexError) as error:
        raise ValueError(f"no dex file: {error}") from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        if data[:4] != b"dex\n":
            raise ValueError("no dex file: wrong magic number")
        if zlib.adler32(data[12:]) != struct.unpack_from("<I", data, 8)[0]:
            raise ValueError("damaged dex file: its checksum does not hold")
        self._data = data
        self._strings = self._table(0x38)
        self._types = [self._string(i) for (i,) in self._rows(0x40, "<I")]
        self._protos = [self._proto(row) for row in self._rows(0x48, "<3I")]
        self._fields = self._members(0x50, self._types)
        self._methods = self._members(0x58, self._protos)

    def read(self) -> Dex:
        classes = [self._class(row) for row in self._rows(0x60, "<8I")]
        return Dex(
            classes={one.name: one for one in classes},
            types=frozenset(name for t in self._types if (name := _class_name(t))),
            methods=frozenset((name, member) for owner, member in self._methods if (name := _class_name(owner))),
            fields=frozenset((name, member) for owner, member in self._fields if (name := _class_name(owner))),
        )

    def _rows(self, header: int, form: str) -> list[tuple[int, ...]]:
        count, at = struct.unpack_from("<2I", self._data, header)
        size = struct.calcsize(form)
        return [struct.unpack_from(form, self._data, at + i * size) for i in range(count)]

    def _table(self, header: int) -> list[int]:
        return [row[0] for row in self._rows(header, "<I")]

    def _string(self, index: int) -> str:
        _, at = self._number(self._strings[index])  # its length in UTF-16 units
        return self._data[at : self._data.index(b"\0", at)].decode("utf-8", "replace")

    def _number(self, at: int) -> tuple[int, int]:
        """ULEB128: the value, and where it ends."""
        value = shift = 0
        while True:
            byte, at = self._data[at], at + 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7

    def _list(self, at: int) -> list[str]:
        if at == 0:
            return []
        count = struct.unpack_from("<I", self._data, at)[0]
        return [self._types[i] for i in struct.unpack_from(f"<{count}H", self._data, at + 4)]

    def _proto(self, row: tuple[int, ...]) -> str:
        return f"({''.join(self._list(row[2]))}){self._types[row[1]]}"

    def _members(self, header: int, kinds: list[str]) -> list[tuple[str, Member]]:
        rows = self._rows(header, "<2HI")
        return [(self._types[owner], (self._string(name), kinds[kind])) for owner, kind, name in rows]

    def _class(self, row: tuple[int, ...]) -> Declared:
        this, _, parent, interfaces, _, _, data, _ = row
        parents = ([self._types[parent]] if parent != _NO_INDEX else []) + self._list(interfaces)
        fields, methods = self._class_data(data)
        return Declared(
            name=_class_name(self._types[this]), parents=tuple(map(_class_name, parents)), methods=methods, fields=fields
        )

    def _class_data(self, at: int) -> tuple[frozenset[Member], frozenset[Member]]:
        if at == 0:
            return frozenset(), frozenset()
        counts = []
        for _ in range(4):
            count, at = self._number(at)
            counts.append(count)
        found: list[set[Member]] = [set(), set()]
        for part, count in enumerate(counts):  # static and instance fields, direct and virtual methods
            methods, index = part >= 2, 0
            for _ in range(count):
                step, at = self._number(at)
                index += step
                found[methods].add((self._methods if methods else self._fields)[index][1])
                for _ in range(2 if methods else 1):
                    _, at = self._number(at)
        return frozenset(found[0]), frozenset(found[1])


def _class_name(descriptor: str) -> str:
    """`Lorg/x/Y;` as `org/x/Y`, of an array the element's; empty for a primitive."""
    element = descriptor.lstrip("[")
    if element != descriptor and not element.startswith("L"):
        return ""
    return element[1:-1] if element.startswith("L") else ""
