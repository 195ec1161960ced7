"""Declarations out of class files: what a check of references needs, and nothing of code or annotations.

Formats: Java Virtual Machine Specification, chapter 4. Names are internal ones (`java/lang/Object`).
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Member = tuple[str, str]  # name, descriptor

_SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
_UTF8, _CLASS, _WIDE = 1, 7, (5, 6)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A class: its name, what it extends and implements, and its members."""

    name: str
    parents: tuple[str, ...]
    methods: frozenset[Member]
    fields: frozenset[Member]


class Source(Protocol):
    """A place that classes are looked up in."""

    def get(self, name: str) -> Declared | None: ...


def parse(data: bytes) -> Declared:
    """Raises ValueError for what is no class file."""
    try:
        return _parse(data)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"no class file: {error}") from None


def _parse(data: bytes) -> Declared:
    if data[:4] != b"\xca\xfe\xba\xbe":
        raise ValueError("no class file: wrong magic number")
    count, at = struct.unpack_from(">H", data, 8)[0], 10
    texts: dict[int, str] = {}
    classes: dict[int, int] = {}
    number = 1
    while number < count:
        tag = data[at]
        if tag == _UTF8:
            length = struct.unpack_from(">H", data, at + 1)[0]
            texts[number] = data[at + 3 : at + 3 + length].decode("utf-8", "replace")
            at += 3 + length
        else:
            if tag == _CLASS:
                classes[number] = struct.unpack_from(">H", data, at + 1)[0]
            at += 1 + _SIZES[tag]
        number += 2 if tag in _WIDE else 1
    _, this, parent, interfaces = struct.unpack_from(">4H", data, at)
    at += 8
    parents = [parent, *struct.unpack_from(f">{interfaces}H", data, at)]
    at += 2 * interfaces
    members: list[frozenset[Member]] = []
    for _ in range(2):
        found = set()
        total, at = struct.unpack_from(">H", data, at)[0], at + 2
        for _ in range(total):
            _, name, kind, attributes = struct.unpack_from(">4H", data, at)
            found.add((texts[name], texts[kind]))
            at += 8
            for _ in range(attributes):
                at += 6 + struct.unpack_from(">I", data, at + 2)[0]
        members.append(frozenset(found))
    return Declared(
        name=texts[classes[this]], parents=tuple(texts[classes[i]] for i in parents if i), fields=members[0], methods=members[1]
    )


class Jar:
    """Classes of a jar, or of an AAR's classes.jar, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        if "classes.jar" in self._zip.namelist():
            self._zip = zipfile.ZipFile(self._zip.open("classes.jar"))
        self._names = set(self._zip.namelist())

    def get(self, name: str) -> Declared | None:
        entry = f"{name}.class"
        return parse(self._zip.read(entry)) if entry in self._names else None


class JavaApi:
    """The public API of Java 8 as `javac --release 8` knows it, restricted to the packages that Android 8 has."""

    PACKAGES = ("io", "lang", "math", "net", "nio", "security", "text", "time", "util")
    ABSENT = ("java/lang/management/", "java/lang/instrument/", "java/util/jar/Pack200")

    def __init__(self, java_home: Path) -> None:
        self._zip = zipfile.ZipFile(java_home / "lib" / "ct.sym")
        self._entries: dict[str, str] = {}
        for entry in self._zip.namelist():
            versions, _, rest = entry.partition("/")
            if "8" in versions and entry.endswith(".sig"):
                name = rest.removesuffix(".sig")
                self._entries[name if name.startswith("java/") else name.partition("/")[2]] = entry

    def get(self, name: str) -> Declared | None:
        parts = name.split("/")
        if parts[0] != "java" or parts[1] not in self.PACKAGES or name.startswith(self.ABSENT):
            return None
        entry = self._entries.get(name)
        return parse(self._zip.read(entry)) if entry else None


class Known:
    """Several sources, the first one that has a class decides; answers are kept."""

    def __init__(self, sources: Iterable[Source | Mapping[str, Declared]]) -> None:
        self._sources = list(sources)
        self._found: dict[str, Declared | None] = {}

    def get(self, name: str) -> Declared | None:
        if name not in self._found:
            found = (source.get(name) for source in self._sources)
            self._found[name] = next((one for one in found if one is not None), None)
        return self._found[name]

    def has(self, owner: str, member: Member, kind: str) -> bool:
        """Whether `owner`, or anything above it, declares a member; kind is `methods` or `fields`."""
        todo, seen = [owner, "java/lang/Object"], set()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            declared = self.get(name)
            if declared is not None:
                if member in getattr(declared, kind):
                    return True
                todo += declared.parents
        return False
