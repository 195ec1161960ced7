"""A small builder of static ONNX graphs whose values have names, and whose weights are in one file for all graphs.

Graphs for an NPU are written node by node, not traced: norms, masks and the places where activations are rounded must have
the form that the NPU takes, and a further width or length must not need a second trace. It knows nothing of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from dgemma.export.onnx.weights import INLINE_BELOW, WeightFile

Array = npt.NDArray[Any]
OPSET, IR_VERSION = 21, 10
_ZERO_16 = 1 << 15  # the zero point of uint16 activations
_LEVELS_16 = _ZERO_16 - 1


class StaticNet:
    """Nodes in order, float32 between them; with `ranges`, activations are rounded to 16 bits where `round16` says.

    Args:
        name: of the graph; the NPU's graphs in one context need names of their own.
        weights: the file that large constants go to.
        ranges: largest magnitude that a value is to reach, by name; None leaves activations in float.
        known: constants of the file by name and first row, which this net adds to; nets that share it make each once.
    """

    def __init__(
        self,
        name: str,
        weights: WeightFile,
        ranges: Mapping[str, float] | None = None,
        known: dict[tuple[str, int], onnx.TensorProto] | None = None,
    ) -> None:
        self.name, self.ranges, self._file = name, ranges, weights
        self._known = {} if known is None else known
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._rounded: dict[str, str] = {}

    def input(self, name: str, shape: Sequence[int]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, value: str, name: str, shape: Sequence[int]) -> None:
        self.op("Identity", value, out=name)
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """One node with one output; returns the output's name."""
        out = out or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [out], name=f"n{len(self._nodes)}", **attributes))
        return out

    def ops(self, kind: str, value: str, outs: Sequence[str], **attributes: Any) -> None:
        """One node with several outputs."""
        self._nodes.append(helper.make_node(kind, [value], list(outs), name=f"n{len(self._nodes)}", **attributes))

    def constant(
        self, values: Array | Callable[[], Array], name: str | None = None, *, int4: bool = False, first: int = 0
    ) -> str:
        """A constant; with `int4`, of packed ones: uint8 [..., out/2] as ONNX packs INT4. What a function makes has a name (and
        `first`, the row that it begins with) that means the same in all nets, and is made once."""
        if not callable(values):
            name = name or f"c{len(self._constants)}"
            if name not in self._constants:
                self._constants[name] = self._stored(values, name, int4)
            return name
        assert name is not None
        if name not in self._constants:
            if (name, first) not in self._known:
                self._known[name, first] = self._stored(values(), name, int4)
            self._constants[name] = self._known[name, first]
        return name

    def _stored(self, values: Array, name: str, int4: bool) -> onnx.TensorProto:
        tensor = ir.Tensor(np.ascontiguousarray(values), name=name)
        proto = ir.to_proto(self._file.add(tensor) if tensor.nbytes >= INLINE_BELOW else tensor)
        if int4:
            proto.data_type = TensorProto.INT4
            proto.dims[-1] *= 2
        return proto

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def reshape(self, value: str, *shape: int) -> str:
        return self.op("Reshape", value, self.ints(*shape))

    @property
    def rounds(self) -> bool:
        return self.ranges is not None

    def round16(self, value: str, key: str, *, out: str | None = None) -> str:
        """The value as 16-bit integers stand for it, where activations are rounded; `key` names its range. `out` is for values
        that are rounded once."""
        if self.ranges is None:
            return value
        if value not in self._rounded:
            largest = max(self.ranges[key], 1e-6)
            scale = self.scalar(largest / _LEVELS_16)
            zero = self.constant(np.array(_ZERO_16, np.uint16))
            integers = self.op("QuantizeLinear", value, scale, zero)
            self._rounded[value] = self.op("DequantizeLinear", integers, scale, zero, out=out)
        return self._rounded[value]

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, list(self._constants.values()))
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        made.producer_name, made.producer_version = "dgemma", ""
        return made
