"""An ONNX model of a few products as bytes, without the onnx package: protobuf's wire format, and the fields used here.

Field numbers are those of onnx.proto (ONNX 1.23): ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_TYPES = {"float32": 1, "uint8": 2, "int8": 3}
_INT_ATTRIBUTE = 2
IR_VERSION, OPSET = 10, 21


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator; attributes are integers."""

    op: str
    inputs: Sequence[str]
    output: str
    domain: str = ""
    attributes: Mapping[str, int] = field(default_factory=dict)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field_number: int, value: int) -> bytes:
    return _varint(field_number << 3) + _varint(value)


def _bytes(field_number: int, payload: bytes | str) -> bytes:
    data = payload.encode() if isinstance(payload, str) else payload
    return _varint(field_number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, _TYPES[str(array.dtype)]) + _bytes(8, name) + _bytes(9, np.ascontiguousarray(array).tobytes())


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size)) for size in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, _TYPES["float32"]) + _bytes(2, dims)))


def _node(node: Node) -> bytes:
    attributes = [
        _bytes(5, _bytes(1, name) + _number(3, value) + _number(20, _INT_ATTRIBUTE)) for name, value in node.attributes.items()
    ]
    names = [*(_bytes(1, name) for name in node.inputs), _bytes(2, node.output)]
    return b"".join([*names, _bytes(4, node.op), *attributes, _bytes(7, node.domain)])


def model(
    nodes: Sequence[Node], weights: Mapping[str, npt.NDArray[Any]], inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
) -> bytes:  # fmt: skip
    """A serialized ModelProto; inputs and outputs are float32 of the shapes given, weights float32, int8 or uint8."""
    graph = [
        *(_bytes(1, _node(node)) for node in nodes), _bytes(2, "products"),
        *(_bytes(5, _tensor(name, array)) for name, array in weights.items()),
        *(_bytes(11, _value(name, shape)) for name, shape in inputs.items()),
        *(_bytes(12, _value(name, shape)) for name, shape in outputs.items()),
    ]  # fmt: skip
    opsets = [_bytes(8, _bytes(1, "") + _number(2, OPSET)), _bytes(8, _bytes(1, "com.microsoft") + _number(2, 1))]
    return b"".join([_number(1, IR_VERSION), _bytes(7, b"".join(graph)), *opsets])
