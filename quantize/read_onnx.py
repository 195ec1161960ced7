"""A bundle's integers and scales, read back out of its ONNX graph: the form in which `quantize/` made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from torch import Tensor

from dgemma.quantize.expert_layout import LaidOut, put_back
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.recipes import class_of

EXPERTS, EXPERTS_DOMAIN = "Experts", "dgemma.native"  # operator of a layer's routed experts
WEIGHT = "model."  # prefix of the names of parameters in exported graphs
_TABLE, _PARAMETER = f"{WEIGHT}embed_tokens.table", "embed_tokens.weight"


def read_integers(path: Path) -> dict[str, QuantizedMatrix]:
    """Parameter name → matrix, for every quantized matrix of a graph file."""
    graph = onnx.load(path, load_external_data=False).graph
    tensors = {t.name: t for t in graph.initializer if t.name.startswith(WEIGHT)}

    def read(name: str) -> Tensor:
        tensor = tensors[name]
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(path.parent))
        if tensor.data_type == TensorProto.INT4:
            return _unpack(np.frombuffer(tensor.raw_data, np.uint8), tuple(tensor.dims))
        return torch.from_numpy(numpy_helper.to_array(tensor).copy())

    # equal tensors are stored once under one of their names, which multipliers of few groups can be
    feeds = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    found = _experts(graph, read)
    block = max((t.dims[0] for name, t in tensors.items() if name.endswith(".hadamard")), default=1)
    for name in tensors:
        stem, _, last = name.rpartition(".")
        if last not in ("integers", "packed"):
            continue
        parameter = _PARAMETER if stem == _TABLE else stem.removeprefix(WEIGHT)
        integers, scale = read(name), read(f"{stem}.scale")
        if last == "packed":
            multipliers = read(feeds[f"{name}/int8/multipliers"]).transpose(-2, -1).contiguous()
            found[parameter] = QuantizedMatrix(
                bits=4,
                integers=integers.transpose(-2, -1).contiguous(),
                scale=scale,
                multipliers=multipliers,
                rotation=_rotation(parameter, block, integers.shape[-2]),
            )
        else:
            upright = integers if stem == _TABLE else integers.transpose(-2, -1).contiguous()
            rotation = _rotation(parameter, block, upright.shape[-1])
            found[parameter] = QuantizedMatrix(bits=8, integers=upright, scale=scale, rotation=rotation)
    return found


def _experts(graph: onnx.GraphProto, read: Callable[[str], Tensor]) -> dict[str, QuantizedMatrix]:
    """Stacks of experts, which have a node for each layer, in a loop perhaps."""
    found = dict[str, QuantizedMatrix]()
    for node in graph.node:
        for attribute in node.attribute:
            found |= _experts(attribute.g, read) if attribute.HasField("g") else {}
        if (node.domain, node.op_type) != (EXPERTS_DOMAIN, EXPERTS):
            continue
        numbers = {a.name: a.i for a in node.attribute}
        parts = [read(name) for name in node.input[3:]]
        stacks = (
            LaidOut(weight=weight, multipliers=multipliers, scale=scale, group=numbers[f"{name}_group"])
            for name, (weight, multipliers, scale) in (("gate_up", parts[:3]), ("down", parts[3:]))
        )
        stem = node.input[3].removeprefix(WEIGHT).removesuffix("gate_up")
        matrices = put_back(*stacks, hidden=numbers["hidden"], width=numbers["width"])
        found |= {f"{stem}{name}_proj": m for name, m in zip(("gate_up", "down"), matrices, strict=True)}
    return found


def _rotation(parameter: str, block: int, inputs: int) -> int | None:
    """Block of a matrix's Hadamard rotation, as recipes have it; the graph holds the matrices of the rotation themselves."""
    rotated = min(block, inputs & -inputs)
    return rotated if rotated > 1 and class_of(parameter) == "mlp_down" else None


def _unpack(data: np.ndarray[tuple[int], np.dtype[np.uint8]], shape: tuple[int, ...]) -> Tensor:
    """ONNX INT4, first value in the low half → int8 of the given shape."""
    halves = np.stack([data << 4, data & 0xF0], -1).view(np.int8) >> 4
    return torch.from_numpy(halves.reshape(shape))
