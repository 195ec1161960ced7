"""Where a saved ONNX file has its weights: finds and moves external data and packed copies without the `onnx` package.

Only the fields on the way to a tensor's external data are understood (onnx.proto; packed copies as onnxruntime writes them:
`prepacked_0` = `key|offset;length;flag|…`). All others are copied unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from dgemma.runtime.engines import wire

# field number → what it holds, for the messages that tensors are in; graphs are in attributes again
_CHILDREN = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {6: "graph", 11: "graph"},
}
_NAME, _EXTERNAL = 8, 13  # of a tensor
_BLOB = re.compile(r"\|(\d+);(\d+)")


@dataclass(frozen=True, kw_only=True)
class Weight:
    """An external tensor: `regions` are (offset, length) in bytes of `file`, the tensor itself before its packed copies."""

    name: str
    file: str
    regions: tuple[tuple[int, int], ...]
    keys: tuple[str, ...]  # of the packed copies: kernel and a hash of what it packed

    @property
    def end(self) -> int:
        return max(offset + length for offset, length in self.regions)


Move = Callable[[Weight], tuple[str, list[int]]]  # → file, and an offset for each region


def weights(model: bytes) -> list[Weight]:
    """Every external tensor of a serialized model; raises ValueError when it is none."""
    found: list[Weight] = []

    def look(weight: Weight) -> tuple[str, list[int]]:
        found.append(weight)
        return weight.file, [offset for offset, _ in weight.regions]

    moved(model, look)
    return found


def moved(model: bytes, move: Move) -> bytes:
    """The model with other places for its external tensors; raises ValueError when it is none."""
    try:
        return _message(memoryview(model), "model", move)
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"not a model with external data ({error})") from None


def _message(data: memoryview, kind: str, move: Move) -> bytes:
    if kind == "tensor":
        return _tensor(data, move)
    out = bytearray()
    for number, start, value, end in wire.fields(data):
        child = _CHILDREN[kind].get(number)
        out += wire.field(number, _message(data[value:end], child, move)) if child else data[start:end]
    return bytes(out)


def _tensor(data: memoryview, move: Move) -> bytes:
    entries: dict[str, str] = {}
    name, out = "", bytearray()
    for number, start, value, end in wire.fields(data):
        if number == _EXTERNAL:
            part = {n: bytes(data[value:end][v:e]).decode() for n, _, v, e in wire.fields(data[value:end])}
            entries[part[1]] = part.get(2, "")
            continue
        if number == _NAME:
            name = bytes(data[value:end]).decode()
        out += data[start:end]
    if entries:
        for pair in _relocated(name, entries, move).items():
            out += wire.field(_EXTERNAL, b"".join(wire.field(i, text) for i, text in enumerate(pair, 1)))
    return bytes(out)


def _relocated(name: str, entries: dict[str, str], move: Move) -> dict[str, str]:
    packed = {key: value for key, value in entries.items() if key.startswith("prepacked_")}
    regions = [(int(entries.get("offset", 0)), int(entries["length"]))]
    regions += [(int(start), int(size)) for value in packed.values() for start, size in _BLOB.findall(value)]
    keys = tuple(value.split("|")[0] for value in packed.values())
    file, offsets = move(Weight(name=name, file=entries["location"], regions=tuple(regions), keys=keys))
    rest = iter(offsets[1:])
    changed = {key: _BLOB.sub(lambda found: f"|{next(rest)};{found[2]}", value) for key, value in packed.items()}
    return {**entries, "location": file, "offset": str(offsets[0]), **changed}
