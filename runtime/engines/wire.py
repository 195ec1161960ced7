"""Protobuf's wire format without its library: a message is a sequence of fields, each a tag, perhaps a length, and bytes.

It knows no message; callers know the field numbers.
"""

from __future__ import annotations

from collections.abc import Iterator


def fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number of each field, and where in `data` the field starts, its value starts, and it ends; raises IndexError."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _read(data, at)
        value = at
        match tag & 7:
            case 0:
                at = _read(data, at)[1]
            case 1:
                at += 8
            case 2:
                size, value = _read(data, at)
                at = value + size
            case 5:
                at += 4
            case other:
                raise IndexError(f"wire type {other}")
        if at > len(data):
            raise IndexError("a field is cut off")
        yield tag >> 3, start, value, at


def _read(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at


def field(number: int, value: bytes | str) -> bytes:
    """A field that holds bytes: a string, or a message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(number: int, value: int) -> bytes:
    """A field that holds a number."""
    return varint(number << 3) + varint(value)


def varint(number: int) -> bytes:
    """A number of seven bits a byte, least first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
