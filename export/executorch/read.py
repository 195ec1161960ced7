"""The integers and scales that a `.pte` has, to compare with what they were made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from executorch.exir.schema import KernelCall
from torch import Tensor

from dgemma.export.executorch import ops
from dgemma.export.executorch.pte import Layout
from dgemma.quantize.expert_layout import LaidOut, put_back
from dgemma.quantize.matrix import QuantizedMatrix


@dataclass(frozen=True, kw_only=True)
class StoredMatrix:
    """weight[o, i] ≈ integers[o, i] · scale[o], or with a group · scale[o, i // group]; columns of padding removed."""

    integers: Tensor  # int8 [out, in]
    scale: Tensor  # float32 [out] or [out, in / group]
    group: int


def read_integers(path: Path) -> dict[str, StoredMatrix]:
    """Parameter name → matrix, for every quantized matrix that XNNPACK has."""
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
    return _joined(found)


def read_experts(path: Path) -> list[tuple[QuantizedMatrix, QuantizedMatrix]]:
    """Gate-and-up and down of each layer's experts, in the order of layers."""
    program = deserialize_pte_binary(path.read_bytes()).program
    plan: Any = program.execution_plan[0]

    def tensor(index: int) -> Tensor:
        value = plan.values[index].val
        dtype = torch.float32 if value.scalar_type == ScalarType.FLOAT else torch.uint8
        stored = bytearray(program.constant_buffer[value.data_buffer_idx].storage)
        return torch.frombuffer(stored, dtype=dtype, count=math.prod(value.sizes)).view(value.sizes)

    found = []
    for call in (i.instr_args for chain in plan.chains for i in chain.instructions):
        if not isinstance(call, KernelCall) or plan.operators[call.op_index].name != "dgemma::experts":
            continue
        arrays = [tensor(i) if math.prod(plan.values[i].val.sizes) else _none(plan.values[i].val.sizes) for i in call.args[3:9]]
        hidden, width, *groups = (plan.values[i].val.int_val for i in call.args[9:13])
        stacks = (
            LaidOut(weight=weight, multipliers=multipliers, scale=scale, group=group)
            for (weight, multipliers, scale), group in zip((arrays[:3], arrays[3:]), groups, strict=True)
        )
        found.append(put_back(*stacks, hidden=hidden, width=width))
    return found


def _none(sizes: Sequence[int]) -> Tensor:
    return torch.empty(list(sizes), dtype=torch.uint8)


def _joined(found: dict[str, StoredMatrix]) -> dict[str, StoredMatrix]:
    """With the tiles of a table, `embed_tokens.tile_3`, as one matrix, `embed_tokens.weight`."""
    tiles = {name: name.rpartition(".tile_") for name in found if ".tile_" in name}
    whole = {name: matrix for name, matrix in found.items() if name not in tiles}
    for table in {stem for stem, _, _ in tiles.values()}:
        parts = [found[name] for name in sorted(tiles, key=lambda n: int(tiles[n][2])) if tiles[name][0] == table]
        whole[f"{table}.weight"] = StoredMatrix(
            integers=torch.cat([p.integers for p in parts]), scale=torch.cat([p.scale for p in parts]), group=parts[0].group
        )
    return whole


def _matrix(raw: bytes, scales: bytes, rows: int, group: int) -> StoredMatrix:
    stored = torch.frombuffer(bytearray(raw), dtype=torch.uint8 if group else torch.int8).view(rows, -1)
    scale = torch.frombuffer(bytearray(scales), dtype=torch.bfloat16 if group else torch.float32).float()
    integers = ops.unpack(stored) if group else stored
    padding = ops.padding(group)
    assert not integers[:, -padding:].any(), "padding that is not zero"
    scale = scale.view(rows, -1)[:, :-1] if group else scale
    return StoredMatrix(integers=integers[:, :-padding].contiguous(), scale=scale, group=group)
