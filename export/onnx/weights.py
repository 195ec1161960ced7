"""One file of weights for all ONNX graphs, each tensor once, and 4-bit weights as ONNX stores them."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

FILE = "weights.bin"
ALIGNMENT = 4096  # bytes, so that engines can map every tensor
INLINE_BELOW = 1024  # bytes


class WeightFile:
    """Tensors are written as they come, page by page, and stored once however many graphs use them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.places = file, dict[str, tuple[int, int]]()

    def add(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Write a tensor's bytes unless they are there already; returns what refers to them."""
        data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(data).hexdigest()
        if key not in self.places:
            offset = -(-self.file.tell() // ALIGNMENT) * ALIGNMENT
            self.file.write(b"\0" * (offset - self.file.tell()))
            self.file.write(data)
            self.places[key] = (offset, data.nbytes)
        offset, length = self.places[key]
        return ir.ExternalTensor(
            location=FILE, offset=offset, length=length, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name or ""
        )

    def externalize(self, model: ir.Model) -> None:
        """Move the large initializers of a graph into the file."""
        for value in model.graph.initializers.values():
            if value.const_value is not None and value.const_value.nbytes >= INLINE_BELOW:
                value.const_value = self.add(value.const_value)


def expansion(packed: onnx.TensorProto, multipliers: onnx.TensorProto, out: str) -> list[onnx.NodeProto]:
    """Nodes that make int8 weights [..., in, out] of 4-bit integers and group multipliers, for engines to fold.

    The packed uint8 tensor [..., in, out/2] becomes INT4 [..., in, out] of the same bytes, in place.
    """
    packed.data_type = TensorProto.INT4
    packed.dims[-1] *= 2
    axis = len(packed.dims) - 2
    block = packed.dims[axis] // multipliers.dims[axis]
    node, names = helper.make_node, (packed.name, multipliers.name)
    return [
        node("Cast", [names[1]], [f"{out}/multipliers"], to=TensorProto.FLOAT),
        node("DequantizeLinear", [names[0], f"{out}/multipliers"], [f"{out}/float"], axis=axis, block_size=block),
        node("Cast", [f"{out}/float"], [out], to=TensorProto.INT8),
    ]
