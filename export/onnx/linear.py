"""Matrix products in the form that ONNX engines prefer, as modules that replace torch's.

Float weights are stored input-major, so that no Transpose is left. Integer products use the recipe's single set of integers,
with activations quantized per token: onnxruntime's own dynamic quantization has one scale for a whole tensor, so that one
outlier row would ruin all others. Sums of integers are exact, and MatMulIntegerToFloat, onnxruntime's own operator, scales them
by output channel while they are in registers; so x86 and ARM give the same bits.

4-bit weights are stored as INT4 with int8 group multipliers. What is multiplied is their product, which fits int8:
DequantizeLinear and Cast compute it when a session is opened, because onnxruntime's int8 kernel is twice as fast as its int4
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import opset21 as op
from onnxscript import values
from torch import Tensor, nn

from dgemma.export.experts import routed
from dgemma.model.denoiser import Experts, GatedMLP
from dgemma.quantize.activations import LEAST, SMALLEST, quantize_tokens
from dgemma.quantize.hadamard import hadamard
from dgemma.quantize.matrix import QuantizedMatrix

Parameter = OpSchema.FormalParameter
DOMAIN = "dgemma"  # of the placeholders for expanded 4-bit weights, which `lower` replaces
MICROSOFT = "com.microsoft"  # of onnxruntime's own operators
FLOAT_ROWS = 2048  # of the table, made float at once
_expand_int4 = values.Op(
    values.Opset(DOMAIN, 1),
    "ExpandInt4",
    OpSchema(
        "ExpandInt4",
        DOMAIN,
        1,
        inputs=[Parameter("packed", "tensor(uint8)"), Parameter("multipliers", "tensor(int8)")],
        outputs=[Parameter("weight", "tensor(int8)")],
    ),
)

_multiply = values.Op(
    values.Opset(MICROSOFT, 1),
    "MatMulIntegerToFloat",
    OpSchema(
        "MatMulIntegerToFloat",
        MICROSOFT,
        1,
        inputs=[
            Parameter("x", "tensor(uint8)"),
            Parameter("weight", "tensor(int8)"),
            Parameter("x_scale", "tensor(float)"),
            Parameter("weight_scale", "tensor(float)"),
            Parameter("x_zero_point", "tensor(uint8)"),
        ],
        outputs=[Parameter("product", "tensor(float)")],
    ),
)


@torch.library.custom_op("dgemma::to_uint8", mutates_args=())
def to_uint8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., M, in] float32 → `quantize_tokens`' integers plus 128 as uint8, and one over its inverse scale [..., M, 1]."""
    integers, inverse = quantize_tokens(x)
    return (integers + 128).to(torch.uint8), 1.0 / inverse


@to_uint8.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=torch.uint8), x.new_empty([*x.shape[:-1], 1])


@torch.library.custom_op("dgemma::product_int8", mutates_args=())
def product_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Sums of integers, each rounded to a float once and then scaled.

    Args:
        x: uint8 [..., M, in] with zero point 128.
        weight: int8 [..., in, out].
        scale: float32 [out] or [..., 1, out].
    Returns:
        float32 [..., M, out].
    """
    return ((x.double() - 128) @ weight.double()).float() * scale


@product_int8.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    shape = [*torch.broadcast_shapes(x.shape[:-2], weight.shape[:-2]), x.shape[-2], weight.shape[-1]]
    return x.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("dgemma::expand_int4", mutates_args=())
def expand_int4(packed: Tensor, multipliers: Tensor) -> Tensor:
    """packed uint8 [..., in, out/2], multipliers int8 [..., in/group, out] → int8 [..., in, out], exact."""
    low, high = packed.to(torch.int8) << 4 >> 4, packed.to(torch.int8) >> 4
    integers = torch.stack([low, high], -1).flatten(-2)
    groups = multipliers.shape[-2]
    return (integers.unflatten(-2, (groups, -1)) * multipliers.unsqueeze(-2)).flatten(-3, -2)


@expand_int4.register_fake
def _(packed: Tensor, multipliers: Tensor) -> Tensor:
    return packed.new_empty([*packed.shape[:-1], multipliers.shape[-1]], dtype=torch.int8)


def _zero() -> Any:
    return op.Cast(op.Constant(value_int=128), to=2)


def _translate_to_uint8(x: Any) -> Any:
    """`quantize_tokens` as ONNX nodes; onnxruntime makes one set of equal nodes for shared inputs."""
    most, least = (reduce(x, op.Constant(value_ints=[-1]), keepdims=1) for reduce in (op.ReduceMax, op.ReduceMin))
    largest = op.Max(most, op.Neg(least), op.Constant(value_float=SMALLEST))  # magnitudes of all would be stored first
    span = op.Add(largest, op.Mul(largest, op.Constant(value_float=LEAST)))
    inverse = op.Div(op.Constant(value_float=255.0), span)
    return op.QuantizeLinear(op.Mul(x, inverse), op.Constant(value_float=1.0), _zero()), op.Reciprocal(inverse)


def _translate_product(x: Any, weight: Any, scale: Any) -> Any:
    return _multiply(x, weight, op.Constant(value_float=1.0), scale, _zero())


def _translate_expand(packed: Any, multipliers: Any) -> Any:
    return _expand_int4(packed, multipliers)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.dgemma.to_uint8.default: _translate_to_uint8,
    torch.ops.dgemma.product_int8.default: _translate_product,
    torch.ops.dgemma.expand_int4.default: _translate_expand,
}


def pack(integers: Tensor) -> Tensor:
    """int8 [..., n] of 4-bit values → uint8 [..., n/2], first value in the low half, as ONNX packs INT4."""
    pairs = integers.unflatten(-1, (-1, 2)).to(torch.uint8)
    return (pairs[..., 0] & 15) | (pairs[..., 1] << 4)


class InputMajorLinear(nn.Module):
    """y = x @ weight with weight [in, out], a copy of a Linear's transposed weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().float().t().contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out]."""
        return torch.matmul(x, self.weight)


class IntegerWeight(nn.Module):
    """A quantized matrix, int8 or packed int4; `transpose` stores it [..., in, out] as products want it."""

    scale: Tensor
    integers: Tensor  # where there are 8 bits
    packed: Tensor  # and these two where there are 4
    multipliers: Tensor

    def __init__(self, matrix: QuantizedMatrix, *, transpose: bool) -> None:
        super().__init__()
        self.transposed = transpose

        def stored(t: Tensor) -> Tensor:
            return t.transpose(-2, -1).contiguous() if transpose else t.contiguous().detach()

        # Detached, for what the caller holds must outlive `graphs.release`.
        self.register_buffer("scale", matrix.scale.detach())
        if matrix.multipliers is None:
            self.register_buffer("integers", stored(matrix.integers))
        elif transpose:
            self.register_buffer("packed", pack(stored(matrix.integers)))
            self.register_buffer("multipliers", stored(matrix.multipliers))
        else:
            raise NotImplementedError("4-bit tables are stored transposed")
        self.bits = matrix.bits

    def forward(self) -> Tensor:
        """What kernels multiply: int8, [..., in, out] where transposed."""
        if self.bits == 8:
            return self.integers
        return expand_int4(self.packed, self.multipliers)


class IntegerLinear(nn.Module):
    """Integer product with a quantized weight."""

    hadamard: Tensor

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.weight = IntegerWeight(matrix, transpose=True)
        self.rotation = matrix.rotation
        if self.rotation is not None:
            self.register_buffer("hadamard", hadamard(self.rotation))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., M, in] → [..., M, out]."""
        read, unit = to_uint8(self.rotate(x))
        return self.product(read) * unit

    def rotate(self, x: Tensor) -> Tensor:
        """x [..., M, in], as the weight's columns are."""
        return x if self.rotation is None else (x.unflatten(-1, (-1, self.rotation)) @ self.hadamard).flatten(-2)

    def product(self, read: Tensor) -> Tensor:
        """Integers uint8 [..., M, in] → [..., M, out], but for the scale of their row."""
        scale = self.weight.scale
        return product_int8(read, self.weight(), scale if scale.dim() == 1 else scale[..., None, :])


class IntegerMLP(nn.Module):
    """GeGLU of integer products. The row's scale is left out of `up` and is back in `down`: its input is rounded relative to
    the row's largest magnitude, so that nothing in between has to know it."""

    def __init__(self, gate: IntegerLinear, up: IntegerLinear, down: IntegerLinear) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        """x [..., M, D] → [..., M, D]."""
        read, unit = to_uint8(x)
        gate = nn.functional.gelu(self.gate_proj.product(read) * unit, approximate="tanh")
        hidden, own = to_uint8(self.down_proj.rotate(gate * self.up_proj.product(read)))
        return self.down_proj.product(hidden) * (own * unit)


class IntegerEmbedding(nn.Module):
    """The tied table, stored once: rows looked up, tiles multiplied as integers, the exact soft embedding in float."""

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.table = IntegerWeight(matrix, transpose=matrix.bits == 4)
        self.weight = torch.empty(0)  # its dtype rounds the embedding scale

    def _rows(self, ids: Tensor) -> Tensor:
        """ids [...] → their rows, int8 [..., D]."""
        table = self.table()
        rows = table.index_select(0, ids.flatten()) if self.upright else table.index_select(1, ids.flatten()).t()
        return rows.unflatten(0, ids.shape)

    def forward(self, tokens: Tensor) -> Tensor:
        return self._rows(tokens).float() * self.table.scale[tokens][..., None]

    @property
    def upright(self) -> bool:
        return not self.table.transposed

    @property
    def names(self) -> tuple[str, str | None]:
        return "table.integers" if self.upright else "table.packed/int8", "table.scale"

    def logits(self, x: Tensor) -> Tensor:
        return self.tile(*self.read(x), self.table(), self.table.scale)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return to_uint8(x)

    def tile(self, read: Tensor, inverse: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return product_int8(read, weight.t() if self.upright else weight, scale) * inverse

    def chosen(self, read: Tensor, inverse: Tensor, ids: Tensor) -> Tensor:
        rows = self._rows(ids)
        return self.tile(read, inverse, rows if self.upright else rows.t(), self.table.scale[ids])

    def expected(self, weights: Tensor, first: Tensor | int = 0) -> Tensor:
        """Ids depend on data, so that an engine cannot fold a float copy of the whole table into its session, and on the sum
        so far, so that it makes few rows float at a time."""
        total, after = torch.zeros(1), weights
        for part in weights.split(FLOAT_ROWS, -1):
            ids = first + (after[0, 0, :1] * 0).long() + torch.arange(part.shape[-1])
            total = after = total + (part * self.table.scale[ids]) @ self._rows(ids).float()
            first = first + part.shape[-1]
        return total


class FloatEmbedding(nn.Module):
    """The tied table in float32."""

    upright, names = True, ("weight", None)

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float(), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.weight.index_select(0, tokens.flatten()).unflatten(0, tokens.shape)

    def logits(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.clone(), torch.ones_like(x[..., :1])

    def tile(self, read: Tensor, inverse: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return read @ weight.t() * inverse

    def chosen(self, read: Tensor, inverse: Tensor, ids: Tensor) -> Tensor:
        return self.tile(read, inverse, self(ids), inverse)

    def expected(self, weights: Tensor, first: Tensor | int = 0) -> Tensor:
        ids = first + (weights[0, 0, :1] * 0).long() + torch.arange(weights.shape[-1])
        return weights @ self(ids)


def replace(model: nn.Module, quantized: Mapping[str, QuantizedMatrix], prefix: str = "") -> None:
    """Replace every Linear, and what else is quantized, in place."""
    for name, child in model.named_children():
        path = f"{prefix}{name}.weight"
        if isinstance(child, nn.Linear):
            setattr(model, name, IntegerLinear(quantized[path]) if path in quantized else InputMajorLinear(child))
        elif isinstance(child, nn.Embedding):
            quantized_table = quantized.get(path)
            table = FloatEmbedding(child.weight) if quantized_table is None else IntegerEmbedding(quantized_table)
            setattr(model, name, table)
        elif isinstance(child, Experts):
            gate_up, down = (f"{prefix}{name}.{part}_proj" for part in ("gate_up", "down"))
            if gate_up in quantized:
                setattr(model, name, routed(quantized, gate_up, down))
        else:
            replace(child, quantized, f"{prefix}{name}.")
            parts = [part for part in child.children() if isinstance(part, IntegerLinear)]
            if isinstance(child, GatedMLP) and len(parts) == 3:
                setattr(model, name, IntegerMLP(*parts))
