"""The integers and scales that a `.pte` has for XNNPACK, to compare with what they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dgemma.export.executorch import ops
from dgemma.export.executorch.pte import Layout


@dataclass(frozen=True, kw_only=True)
class StoredMatrix:
    """weight[o, i] ≈ integers[o, i] · scale[o], or with a group · scale[o, i // group]; columns of padding removed."""

    integers: Tensor  # int8 [out, in]
    scale: Tensor  # float32 [out] or [out, in / group]
    group: int


def read_integers(path: Path) -> dict[str, StoredMatrix]:
    """Parameter name → matrix, for every quantized matrix of the file; experts are single, as `experts.up.3.weight`."""
    data = path.read_bytes()
    layout = Layout(data)
    named = {}
    for key, segment in layout.named().items():
        start, size = layout.spans[segment]
        named[key] = data[layout.base + start : layout.base + start + size]
    found = {}
    for key, raw in named.items():
        name, *form = key.split("/")
        if len(form) == 2:
            found[name] = _matrix(raw, named[f"{name}/scale"], int(form[0]), int(form[1]))
    return found


def _matrix(raw: bytes, scales: bytes, rows: int, group: int) -> StoredMatrix:
    stored = torch.frombuffer(bytearray(raw), dtype=torch.uint8 if group else torch.int8).view(rows, -1)
    scale = torch.frombuffer(bytearray(scales), dtype=torch.bfloat16 if group else torch.float32).float()
    integers = ops.unpack(stored) if group else stored
    padding = ops.padding(group)
    assert not integers[:, -padding:].any(), "padding that is not zero"
    scale = scale.view(rows, -1)[:, :-1] if group else scale
    return StoredMatrix(integers=integers[:, :-padding].contiguous(), scale=scale, group=group)
