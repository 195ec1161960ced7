"""How the operators of `ops.py` are expressed in XNNPACK."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from executorch.backends.xnnpack.operators.node_visitor import register_node_visitor
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as xnn
from torch import Tensor
from torch.fx import Node

from dgemma.export.executorch import ops
from dgemma.export.executorch.xnnpack import INFERRED, Visitor, partitioner
from dgemma.quantize.activations import LEAST
from dgemma.quantize.hadamard import hadamard

COLUMNS = 16  # of a float product: fewer take its kernels as long
OPERATORS = ("integer_linear", "to_float", "rms_norm", "sums", "largest", "tanh_gelu", "heads", "flat", "rotate", "attend")


def our_partitioner() -> XnnpackPartitioner:
    """Takes all of our operators, and what XNNPACK takes of torch's."""
    return partitioner(OPERATORS)


def _open(rows: Sequence[int], columns: int) -> list[int]:
    """Rows and columns as a shape for XNNPACK; at most one size of the rows is not 1, and may vary."""
    assert sum(size != 1 for size in rows) <= 1, f"{rows} are more than one dimension of rows"
    return [*(1 if size == 1 else INFERRED for size in rows), columns]


@register_node_visitor
class _IntegerLinear(Visitor):
    target = "dgemma.integer_linear.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        x, weight, scale = node.all_input_nodes
        group, rotation = int(node.args[3]), int(node.args[4])  # type: ignore[arg-type]
        shared = (x, group, rotation)  # products of one x quantize it once
        if shared not in ids:
            ids[shared] = self.quantized(self.rotated(self.tensor(x, ids), rotation), ops.padding(group))
        filter_id = self.filter(self.name(weight), self.parameter(weight), self.parameter(scale), group)
        self.linear(ids[shared], filter_id, self.tensor(node, ids))

    def filter(self, name: str, weight: Tensor, scale: Tensor, group: int) -> int:
        """The weight as XNNPACK's int8 per channel, or blockwise int4 with scales in bfloat16; keys tell `read.py` the form."""
        stored = self.buffer(weight, f"{name}/{weight.shape[0]}/{group}")
        at = {"channel_dim": 0, "scale_buffer_idx": self.buffer(scale, f"{name}/scale"), "num_scales": scale.numel()}
        if not group:
            return self.value(weight.shape, xnn.XNNDatatype.xnn_datatype_qcint8, xnn.PerChannelQuant(scale=[], **at), stored)
        shape = (weight.shape[0], 2 * weight.shape[1])
        quant = xnn.PerChannelGroupQuant(scale=[], group_size=group, **at)
        return self.value(shape, xnn.XNNDatatype.xnn_datatype_qbint4, quant, stored)

    def rotated(self, x: int, size: int) -> int:
        """x with every block of `size` columns times an orthonormal Hadamard matrix, which is symmetric."""
        if not size:
            return x
        *rows, columns = self.dims(x)
        flat = (math.prod(rows) * columns // size, size)
        blocks = self.reshape(x, (INFERRED, size), flat)
        made = self.linear(blocks, self.constant(hadamard(size)), flat)
        return self.reshape(made, _open(rows, columns), (*rows, columns))

    def quantized(self, x: int, pad: int) -> int:
        """x with its rows' extremes appended, quantized per row: it is their scale and their zero point 0 that come out."""
        *rows, columns = self.dims(x)
        last = len(rows)
        magnitude = self.emit(xnn.XNNAbs, (*rows, columns), input_id=x)
        left = columns
        for window in ops.windows(columns):
            left //= window
            picture = (window, left)
            magnitude = self.pooled(self.reshape(magnitude, (1, INFERRED, *picture), (1, math.prod(rows), *picture)))
        largest = self.reshape(magnitude, _open(rows, 1), (*rows, 1))
        least = self.binary(xnn.XNNMultiply, largest, self.constant(torch.tensor([-LEAST])), (*rows, 1))
        wide = self.concatenate((x, largest, least), last, (*rows, columns + 2))
        if pad > 2:
            wide = self.emit(
                xnn.XNNStaticConstantPad,
                (*rows, columns + pad),
                input_id=wide,
                padding_value=0.0,
                pre_paddings=[0] * (last + 1),
                post_paddings=[*([0] * last), pad - 2],
            )
        per_row = xnn.PerTokenDynamicQuant(num_nonbatch_dims=1)
        rounded = self.value((*rows, columns + pad), xnn.XNNDatatype.xnn_datatype_qdint8, per_row)
        return self.emit(xnn.XNNConvert, rounded, input_id=wide)


@register_node_visitor
class _ToFloat(Visitor):
    target = "dgemma.to_float.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        (source,) = node.all_input_nodes
        types = {torch.int8: xnn.XNNDatatype.xnn_datatype_qint8, torch.uint8: xnn.XNNDatatype.xnn_datatype_quint8}
        given, as_it_is = source.meta["val"], xnn.PerTensorQuant(scale=1.0, zero_point=0)
        if source not in ids:
            if self.is_graph_input(source):
                ids[source] = self.external(source, types[given.dtype], as_it_is)
            else:
                buffer = self.buffer(self.parameter(source), self.name(source))
                ids[source] = self.value(given.shape, types[given.dtype], as_it_is, buffer)
        self.emit(xnn.XNNConvert, self.tensor(node, ids), input_id=ids[source])


@register_node_visitor
class _RMSNorm(Visitor):
    """The mean is a product with one column: XNNPACK has no mean over the last dimension."""

    target = "dgemma.rms_norm.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        inputs = [self.tensor(n, ids) for n in node.all_input_nodes]
        x, weight = inputs[0], inputs[1] if len(inputs) > 1 else None
        out = self.tensor(node, ids)
        shape = self.dims(x)
        one = (*shape[:-1], 1)
        squares = self.binary(xnn.XNNMultiply, x, x, shape)
        mean = self.linear(squares, self.constant(torch.full((1, shape[-1]), 1.0 / shape[-1])), one)
        eps = self.constant(torch.tensor([float(node.args[2])]))  # type: ignore[arg-type]
        inverse = self.emit(xnn.XNNReciprocalSquareRoot, one, input_id=self.binary(xnn.XNNAdd, mean, eps, one))
        normed = self.binary(xnn.XNNMultiply, x, inverse, out if weight is None else shape)
        if weight is not None:
            self.binary(xnn.XNNMultiply, normed, weight, out)


@register_node_visitor
class _Sums(Visitor):
    """Products with columns of ones and zeros, up to as many as a kernel computes at once in any case."""

    target = "dgemma.sums.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        x, size = self.tensor(node.all_input_nodes[0], ids), int(node.args[1])  # type: ignore[arg-type]
        out = self.tensor(node, ids)
        *rows, width = self.dims(x)
        if width % size or width > COLUMNS * size:  # a reshape copies, so there is none where it can be helped
            narrow = COLUMNS * size if width % (COLUMNS * size) == 0 else size
            x = self.reshape(x, (INFERRED, narrow), (math.prod(rows) * width // narrow, narrow))
            *rows, width = self.dims(x)
        ones = torch.eye(width // size).repeat_interleave(size, 1)
        added = self.linear(x, self.constant(ones), (*rows, width // size))
        self.reshape(added, (1, INFERRED, self.dims(out)[2]), out)


@register_node_visitor
class _Largest(Visitor):
    target = "dgemma.largest.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        x, out = self.tensor(node.all_input_nodes[0], ids), self.tensor(node, ids)
        columns = self.dims(x)[3]
        self.reshape(self.pooled(x) if self.dims(x)[2] > 1 else x, (1, INFERRED, columns), out)


@register_node_visitor
class _TanhGelu(Visitor):
    """Hendrycks and Gimpel, arXiv 1606.08415, section 2."""

    target = "dgemma.tanh_gelu.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        x = self.tensor(node.all_input_nodes[0], ids)
        out = self.tensor(node, ids)
        shape = self.dims(x)

        def step(kind: Any, a: int, b: int | float, into: int | None = None) -> int:
            other = b if isinstance(b, int) else self.constant(torch.tensor([b]))
            return self.binary(kind, a, other, shape if into is None else into)

        cubic = step(xnn.XNNAdd, step(xnn.XNNMultiply, step(xnn.XNNMultiply, x, x), 0.044715), 1.0)
        inner = step(xnn.XNNMultiply, step(xnn.XNNMultiply, x, cubic), math.sqrt(2 / math.pi))
        gate = step(xnn.XNNAdd, self.emit(xnn.XNNTanh, shape, input_id=inner), 1.0)
        step(xnn.XNNMultiply, step(xnn.XNNMultiply, x, 0.5), gate, out)


@register_node_visitor
class _Heads(Visitor):
    target = "dgemma.heads.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        out = self.tensor(node, ids)
        self.reshape(self.tensor(node.all_input_nodes[0], ids), (1, INFERRED, *self.dims(out)[2:]), out)


@register_node_visitor
class _Flat(Visitor):
    target = "dgemma.flat.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        x, out = self.tensor(node.all_input_nodes[0], ids), self.tensor(node, ids)
        self.reshape(x, (1, INFERRED, self.dims(out)[2]), out)


@register_node_visitor
class _Rotate(Visitor):
    target = "dgemma.rotate.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        x, cos, sin = (self.tensor(n, ids) for n in node.all_input_nodes)
        out = self.tensor(node, ids)
        _, rows, heads, dim = self.dims(x)
        half, middle = (1, rows, heads, dim // 2), dim // 2
        a, b = (
            self.emit(
                xnn.XNNStaticSlice, half, num_dims=4, offsets=[0, 0, 0, start], sizes=[1, INFERRED, heads, middle], input_id=x
            )
            for start in (0, middle)
        )

        def product(left: int, right: int) -> int:
            return self.binary(xnn.XNNMultiply, left, right, half)

        turned = (
            self.binary(xnn.XNNSubtract, product(a, cos), product(b, sin), half),
            self.binary(xnn.XNNAdd, product(b, cos), product(a, sin), half),
        )
        self.concatenate(turned, 3, out)


@register_node_visitor
class _Attend(Visitor):
    target = "dgemma.attend.default"

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        q, keys, values, bias = (self.tensor(n, ids) for n in node.args)  # type: ignore[arg-type]
        out = self.tensor(node, ids)
        (_, rows, heads, dim), (_, slots, kv_heads, _) = self.dims(q), self.dims(keys)
        group = heads // kv_heads
        q = self.reshape(self.transpose(q, (0, 2, 1, 3)), (kv_heads, group, INFERRED, dim), (kv_heads, group, rows, dim))
        keys = self.reshape(self.transpose(keys, (0, 2, 3, 1)), (kv_heads, 1, dim, INFERRED), (kv_heads, 1, dim, slots))
        values = self.reshape(self.transpose(values, (0, 2, 1, 3)), (kv_heads, 1, INFERRED, dim), (kv_heads, 1, slots, dim))
        scores = self.binary(xnn.XNNBatchMatrixMultiply, q, keys, (kv_heads, group, rows, slots))
        scores = self.binary(xnn.XNNAdd, scores, bias, (kv_heads, group, rows, slots))
        weights = self.emit(xnn.XNNSoftmax, (kv_heads, group, rows, slots), input_id=scores)
        mixed = self.binary(xnn.XNNBatchMatrixMultiply, weights, values, (kv_heads, group, rows, dim))
        mixed = self.transpose(self.reshape(mixed, (1, heads, INFERRED, dim), (1, heads, rows, dim)), (0, 2, 1, 3))
        self.reshape(mixed, (1, INFERRED, heads * dim), out)
