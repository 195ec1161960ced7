"""16 KB pages: how native libraries are aligned, inside themselves and inside the APK.

Android 15 devices may have pages of 16 KB. A library is mapped straight out of the APK only where both hold.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

PAGE = 16384
_LOAD, _ALIGNMENT_FIELD = 1, 0xD935  # ELF PT_LOAD; the extra field in which signers look for an entry's alignment


def elf_alignment(data: bytes) -> int:
    """The least alignment of the segments that are loaded; raises ValueError for what is no ELF library."""
    if data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] != 1:
        raise ValueError("no little-endian ELF file")
    wide = data[4] == 2
    try:
        table = struct.unpack_from("<Q" if wide else "<I", data, 0x20 if wide else 0x1C)[0]
        size, count = struct.unpack_from("<2H", data, 0x36 if wide else 0x2A)
        found = []
        for at in range(table, table + size * count, size):
            if struct.unpack_from("<I", data, at)[0] == _LOAD:
                found.append(struct.unpack_from("<Q" if wide else "<I", data, at + (0x30 if wide else 0x1C))[0])
    except struct.error as error:
        raise ValueError(f"damaged ELF file: {error}") from None
    if not found:
        raise ValueError("an ELF file without segments to load")
    return int(min(found))


def data_offset(apk: Path, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin in the file."""
    with apk.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    name, extra = struct.unpack_from("<2H", header, 26)
    return int(entry.header_offset + 30 + name + extra)


def stored(name: str, alignment: int, offset: int) -> zipfile.ZipInfo:
    """An entry that is not compressed and whose bytes will begin at a multiple of `alignment` when written at `offset`."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    start = offset + 30 + len(name.encode()) + 6  # the field's head and the alignment itself
    padding = -start % alignment
    entry.extra = struct.pack("<3H", _ALIGNMENT_FIELD, 2 + padding, alignment) + bytes(padding)
    return entry
