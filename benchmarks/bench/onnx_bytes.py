"""An ONNX model of a few products as bytes, without the onnx package.

Field numbers are those of onnx.proto (ONNX 1.23): ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.runtime.engines import wire

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


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    dims = b"".join(wire.number(1, size) for size in array.shape)
    raw = np.ascontiguousarray(array).tobytes()
    return dims + wire.number(2, _TYPES[str(array.dtype)]) + wire.field(8, name) + wire.field(9, raw)


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(wire.field(1, wire.number(1, size)) for size in shape)
    return wire.field(1, name) + wire.field(2, wire.field(1, wire.number(1, _TYPES["float32"]) + wire.field(2, dims)))


def _node(node: Node) -> bytes:
    attributes = [
        wire.field(5, wire.field(1, name) + wire.number(3, value) + wire.number(20, _INT_ATTRIBUTE))
        for name, value in node.attributes.items()
    ]
    names = [*(wire.field(1, name) for name in node.inputs), wire.field(2, node.output)]
    return b"".join([*names, wire.field(4, node.op), *attributes, wire.field(7, node.domain)])


def model(
    nodes: Sequence[Node],
    weights: Mapping[str, npt.NDArray[Any]],
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
) -> bytes:
    """A serialized ModelProto; inputs and outputs are float32 of the shapes given, weights float32, int8 or uint8."""
    graph = [
        *(wire.field(1, _node(node)) for node in nodes),
        wire.field(2, "products"),
        *(wire.field(5, _tensor(name, array)) for name, array in weights.items()),
        *(wire.field(11, _value(name, shape)) for name, shape in inputs.items()),
        *(wire.field(12, _value(name, shape)) for name, shape in outputs.items()),
    ]
    domains = {"": OPSET, "com.microsoft": 1}
    opsets = [wire.field(8, wire.field(1, domain) + wire.number(2, version)) for domain, version in domains.items()]
    return b"".join([wire.number(1, IR_VERSION), wire.field(7, b"".join(graph)), *opsets])
