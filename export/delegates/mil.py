"""Core ML programs read back from their files and computed with numpy: a check of what was lowered that needs no Core ML.

An operator that is not in the table is an error, so the table is also the list of what a program may contain. After every
operator, values are rounded to the types that the program declares; sums within an operator are float32, which may differ on
a device. It knows nothing of denoisers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Inputs = dict[str, Any]
# Numbers of MIL.proto's DataType.
_TYPES: dict[int, Any] = {1: np.bool_, 10: np.float16, 11: np.float32, 21: np.int8, 23: np.int32, 24: np.int64, 31: np.uint8}
_STRING, _INT4 = 2, 25
_SENTINEL = 0xDEADBEEF
_METADATA = np.dtype([("sentinel", "<u4"), ("dtype", "<u4"), ("bytes", "<u8"), ("offset", "<u8"), ("padding", "<u8")])


class UnknownOperator(ValueError):
    """A program has an operator that is not in the table."""


def _split(i: Inputs) -> list[Array]:
    sizes = i.get("split_sizes")
    at = int(i["num_splits"]) if sizes is None else np.cumsum(sizes)[:-1]
    return np.split(i["x"], at, axis=int(i["axis"]))


def _softmax(i: Inputs) -> Array:
    x, axis = i["x"], int(i["axis"])
    grown = np.exp(x - x.max(axis=axis, keepdims=True))
    found: Array = grown / grown.sum(axis=axis, keepdims=True)
    return found


def _gelu(i: Inputs) -> Array:
    if i["mode"] != "TANH_APPROXIMATION":
        raise UnknownOperator(f"gelu with mode {i['mode']}")
    x = i["x"]
    found: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return found


def _matmul(i: Inputs) -> Array:
    x, y = i["x"], i["y"]
    x = x.swapaxes(-1, -2) if i.get("transpose_x") else x
    found: Array = x @ (y.swapaxes(-1, -2) if i.get("transpose_y") else y)
    return found


def _linear(i: Inputs) -> Array:
    found: Array = i["x"] @ i["weight"].T
    return found if i.get("bias") is None else found + i["bias"]


def _dequantize(i: Inputs) -> Array:
    """Integers times the scale of their block, of any number of axes."""
    data, scale, offset = i["data"], i["scale"], i.get("offset")
    for axis in range(data.ndim):
        times = data.shape[axis] // scale.shape[axis]
        scale = np.repeat(scale, times, axis)
        offset = None if offset is None else np.repeat(offset, times, axis)
    found: Array = (data if offset is None else data - offset.astype(np.float32)) * scale
    return found


def _reshape(i: Inputs) -> Array:
    found: Array = i["x"].reshape([int(n) for n in i["shape"]])
    return found


OPERATORS: dict[str, Callable[[Inputs], Any]] = {
    "add": lambda i: i["x"] + i["y"],
    "cast": lambda i: i["x"],
    "clip": lambda i: np.clip(i["x"], i["alpha"], i["beta"]),
    "concat": lambda i: np.concatenate(i["values"], axis=int(i["axis"])),
    "constexpr_blockwise_shift_scale": _dequantize,
    "gelu": _gelu,
    "linear": _linear,
    "matmul": _matmul,
    "mul": lambda i: i["x"] * i["y"],
    "real_div": lambda i: i["x"] / i["y"],
    "reduce_mean": lambda i: i["x"].mean(axis=tuple(int(a) for a in i["axes"]), keepdims=bool(i["keep_dims"])),
    "reshape": _reshape,
    "softmax": _softmax,
    "split": _split,
    "sqrt": lambda i: np.sqrt(i["x"]),
    "sub": lambda i: i["x"] - i["y"],
    "transpose": lambda i: i["x"].transpose([int(a) for a in i["perm"]]),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function of a program.

    Args:
        inputs, outputs: name → dtype and shape.
        operators: how often each is there, constants aside.
        dtypes: of what operators put out.
        constants: name → what the program says of it.
    """

    name: str
    proto: Any
    weights: Array
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]
    operators: Mapping[str, int]
    dtypes: frozenset[str]
    constants: Mapping[str, Any]

    def run(self, feeds: Mapping[str, Array], *, rounds: bool = True) -> dict[str, Array]:
        """Inputs by name → outputs by name, float32. Without `rounds` only constants have the precision that is declared.

        Raises:
            UnknownOperator: an operator is not in the table.
        """
        known: dict[str, Any] = {name: np.asarray(feeds[name], np.float32) for name in self.inputs}
        for op in self.proto.operations:
            if op.type == "const":
                continue
            given = {key: self._argument(op.type, key, argument, known) for key, argument in op.inputs.items()}
            if op.type not in OPERATORS:
                raise UnknownOperator(f"{op.type} (in function {self.name})")
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                found = OPERATORS[op.type](given)
                for output, array in zip(op.outputs, found if isinstance(found, list) else [found], strict=True):
                    if rounds:
                        array = array.astype(_TYPES[output.type.tensorType.dataType])
                    known[output.name] = array.astype(np.float32)
        return {name: known[name] for name in self.outputs}

    def _argument(self, kind: str, key: str, argument: Any, known: Mapping[str, Any]) -> Any:
        values = []
        for a in argument.arguments:
            if a.WhichOneof("binding") != "name":
                values.append(_value(a.value, self.weights))
            elif a.name in known:
                values.append(known[a.name])
            else:  # not kept, for all of them together can be large
                values.append(_value(self.constants[a.name], self.weights))
        return values if (kind, key) == ("concat", "values") else values[0]


def read(model: Path, weights: Path) -> tuple[int, dict[str, Function]]:
    """Version of a model's specification, and its functions by name."""
    from coremltools.proto import Model_pb2

    found = Model_pb2.Model()
    found.ParseFromString(model.read_bytes())
    blob = np.memmap(weights, np.uint8, "r") if weights.is_file() else np.zeros(0, np.uint8)
    return found.specificationVersion, {
        name: _function(name, function, blob) for name, function in found.mlProgram.functions.items()
    }


def _function(name: str, function: Any, weights: Array) -> Function:
    block = function.block_specializations[function.opset]
    types = {o.name: o.type for op in block.operations for o in op.outputs}
    computed = [op for op in block.operations if op.type != "const"]
    return Function(
        name=name,
        proto=block,
        weights=weights,
        inputs={i.name: _type(i.type) for i in function.inputs},
        outputs={o: _type(types[o]) for o in block.outputs},
        operators=dict(sorted(Counter(op.type for op in computed).items())),
        dtypes=frozenset(_type(o.type)[0] for op in computed for o in op.outputs),
        constants={op.outputs[0].name: op.attributes["val"] for op in block.operations if op.type == "const"},
    )


def _type(kind: Any) -> tuple[str, tuple[int, ...]]:
    tensor = kind.tensorType
    dtype = np.dtype(_TYPES[tensor.dataType]).name if tensor.dataType in _TYPES else str(tensor.dataType)
    return dtype, tuple(int(d.constant.size) for d in tensor.dimensions)


def _value(value: Any, weights: Array) -> Any:
    """A constant: a string, or an array, of float32 where it is of float16, for sums."""
    tensor = value.type.tensorType
    shape = tuple(int(d.constant.size) for d in tensor.dimensions)
    if value.WhichOneof("value") == "blobFileValue":
        found = _stored(tensor.dataType, shape, weights, int(value.blobFileValue.offset))
    else:
        held = value.immediateValue.tensor
        kind = held.WhichOneof("value")
        if tensor.dataType == _STRING:
            return held.strings.values[0]
        raw = getattr(held, kind).values
        dtype = _TYPES[tensor.dataType]
        found = np.frombuffer(raw, dtype) if kind == "bytes" else np.array(list(raw), dtype)
        found = found.reshape(shape)
    return found.astype(np.float32) if found.dtype == np.float16 else found


def _stored(kind: int, shape: tuple[int, ...], weights: Array, at: int) -> Array:
    """A constant of the weight file: its entry says where the bytes are."""
    entry = weights[at : at + _METADATA.itemsize].view(_METADATA)[0]
    if entry["sentinel"] != _SENTINEL:
        raise ValueError(f"no entry at byte {at} of the weight file")
    raw = weights[int(entry["offset"]) : int(entry["offset"]) + int(entry["bytes"])]
    if kind != _INT4:
        return raw.view(_TYPES[kind]).reshape(shape)
    halves = np.stack([raw & 15, raw >> 4], -1).reshape(-1)[: math.prod(shape)].astype(np.int8)  # the low half first
    return np.where(halves > 7, halves - 16, halves).astype(np.int8).reshape(shape)
