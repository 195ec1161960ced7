"""Exact integer products, even where onnxruntime's are not exact.

On x86 without VNNI and AMX, onnxruntime's kernel for unsigned times signed bytes adds pairs of products in 16 bits, which
saturate (`vpmaddubsw`). The kernel for unsigned times unsigned bytes adds in 32 bits: exact, but slower. Only on such
processors, a graph is opened with 128 added to its signed weights and to their zero points, which leaves sums unchanged.
Constant weights are changed once, when a session opens; slices of the table, each time they are multiplied.

onnxruntime's own option for this (`session.x64quantprecision`, 1.32) does not help. It disables VNNI and AMX where they exist
(a product of 256×2304×9216 then takes 3 and 8 times as long), and it ignores weights that a loop or a branch takes from outside
and those that are not constants.

Whether products saturate is found by multiplying: not every system lists its instructions, and such a list does not say which
kernel a library takes.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from dgemma.runtime.engines import wire
from dgemma.runtime.engines.sessions import open_as_it_is, session_options

# Field numbers of onnx.proto (ONNX 1.23), and its types.
_MODEL_VERSION, _MODEL_GRAPH, _MODEL_OPSET = 1, 7, 8
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_UINT8, _INT8, _INT32 = 2, 3, 6

# Operators that multiply unsigned by signed bytes → which input is the zero point of their weight, which is input 1.
PRODUCTS = {b"MatMulInteger": 3, b"MatMulIntegerToFloat": 5}
_ZERO = b"unsigned/zero"
_LENGTH = 64  # of the rows that are multiplied to see


@cache
def saturates() -> bool:
    """Whether onnxruntime's products of unsigned and signed bytes are wrong here when they are large; takes milliseconds."""
    session = open_as_it_is(_largest(), session_options(threads=1))
    return int(session.run(None, {})[0].item()) != 127 * 127 * _LENGTH


def source(path: Path, options: Any) -> str | bytes:
    """What to open with these session options for a graph file: itself, or a model of exact products with the same weights."""
    if not saturates():
        return str(path)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.absolute().parent))
    return unsigned(path.read_bytes())


def model(serialized: bytes) -> bytes:
    """The same of a model that is not a file."""
    return unsigned(serialized) if saturates() else serialized


def unsigned(model: bytes) -> bytes:
    """The serialized model with unsigned weights in its integer products; raises IndexError where it is none."""
    data, made, out = memoryview(model), Counter[bytes](), bytearray()
    for number, start, value, end in wire.fields(data):
        if number == _MODEL_GRAPH:
            zero = wire.field(_GRAPH_INITIALIZER, _tensor(_ZERO, _UINT8, b"\x80"))
            out += wire.field(number, _graph(data[value:end], made) + zero)
        else:
            out += data[start:end]
    return bytes(out)


def _graph(data: memoryview, made: Counter[bytes]) -> bytes:
    out = bytearray()
    for number, start, value, end in wire.fields(data):
        out += _node(data[value:end], made) if number == _GRAPH_NODE else data[start:end]
    return bytes(out)


def _node(data: memoryview, made: Counter[bytes]) -> bytes:
    """The fields of a graph that stand for one of its nodes; `made` counts the products of each weight."""
    inputs: list[bytes] = []
    operator, rest, before = b"", bytearray(), b""
    for number, start, value, end in wire.fields(data):
        if number == _NODE_INPUT:
            inputs.append(bytes(data[value:end]))
        elif number == _NODE_ATTRIBUTE:
            rest += wire.field(number, _attribute(data[value:end], made))
        else:
            rest += data[start:end]
            operator = bytes(data[value:end]) if number == _NODE_OPERATOR else operator
    if operator in PRODUCTS:
        weight, zero = inputs[1], PRODUCTS[operator]
        # Named after its weight, so that graphs with equal weights have equal names for what a cache is to hold once.
        name = b"unsigned/%d/%s" % (made[weight], weight)
        made[weight] += 1
        inputs += [b""] * (zero + 1 - len(inputs))
        inputs[1], inputs[zero] = name, _ZERO
        # A cast wraps (ONNX, Cast: high bits are dropped), and the highest bit is 128.
        before = _operator(b"Cast", [weight], name + b"/wrapped", _integer(b"to", _UINT8))
        before += _operator(b"BitwiseXor", [name + b"/wrapped", _ZERO], name)
    return before + wire.field(_GRAPH_NODE, b"".join(wire.field(_NODE_INPUT, one) for one in inputs) + rest)


def _attribute(data: memoryview, made: Counter[bytes]) -> bytes:
    out = bytearray()
    for number, start, value, end in wire.fields(data):
        out += wire.field(number, _graph(data[value:end], made)) if number in _ATTRIBUTE_GRAPHS else data[start:end]
    return bytes(out)


def _largest() -> bytes:
    """A model without inputs that multiplies the largest bytes, with the zero point that our activations have."""
    sizes = wire.number(1, 1), wire.number(1, _LENGTH)
    graph = _operator(b"MatMulInteger", [b"x", b"w", b"z"], b"y") + b"".join(
        wire.field(_GRAPH_INITIALIZER, one)
        for one in (
            _tensor(b"x", _UINT8, b"\xff" * _LENGTH, sizes[0] + sizes[1]),
            _tensor(b"w", _INT8, b"\x7f" * _LENGTH, sizes[1] + sizes[0]),
            _tensor(b"z", _UINT8, b"\x80"),
        )
    )
    kind = wire.field(1, wire.number(1, _INT32) + wire.field(2, 2 * wire.field(1, sizes[0])))  # a tensor [1, 1]
    graph += wire.field(2, b"largest") + wire.field(_GRAPH_OUTPUT, wire.field(1, b"y") + wire.field(2, kind))
    opset = wire.field(1, b"") + wire.number(2, 18)
    return wire.number(_MODEL_VERSION, 8) + wire.field(_MODEL_GRAPH, graph) + wire.field(_MODEL_OPSET, opset)


def _operator(operator: bytes, inputs: list[bytes], output: bytes, attribute: bytes = b"") -> bytes:
    """A node as a field of its graph."""
    names = b"".join(wire.field(_NODE_INPUT, one) for one in inputs) + wire.field(_NODE_OUTPUT, output)
    return wire.field(_GRAPH_NODE, names + wire.field(_NODE_OPERATOR, operator) + attribute)


def _integer(name: bytes, value: int) -> bytes:
    """An integer attribute as a field of its node."""
    return wire.field(_NODE_ATTRIBUTE, wire.field(1, name) + wire.number(3, value) + wire.number(20, 2))


def _tensor(name: bytes, dtype: int, raw: bytes, sizes: bytes = b"") -> bytes:
    return sizes + wire.number(2, dtype) + wire.field(8, name) + wire.field(9, raw)
