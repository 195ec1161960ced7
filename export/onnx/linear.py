"""Matrix products in the form that ONNX engines like, as modules that replace torch's.

Float weights are stored input-major, so that no Transpose is left. Integer products follow the recipe's one set of
integers, with activations quantized per token: onnxruntime's own dynamic quantization has one scale for a whole tensor,
and one outlier row would ruin all others. Only standard operators of integer-exact results are used, so that x86 and
ARM multiply to the same bits.

4-bit weights are stored as INT4 with int8 group multipliers; their product, which fits int8, is what is multiplied:
DequantizeLinear and Cast make it when a session is opened, for onnxruntime's int8 kernel is twice as fast as its int4 one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import opset21 as op
from onnxscript import values
from torch import Tensor, nn

from dgemma.model.denoiser import Experts
from dgemma.quantize.activations import LEAST, SMALLEST, quantize_tokens
from dgemma.quantize.hadamard import hadamard
from dgemma.quantize.matrix import QuantizedMatrix

Parameter = OpSchema.FormalParameter
DOMAIN = "dgemma"  # of the placeholders for expanded 4-bit weights, which `lower` replaces
TILE = 16_384  # ids of the table that are cast to float at once
_expand_int4 = values.Op(
    values.Opset(DOMAIN, 1), "ExpandInt4",
    OpSchema(
        "ExpandInt4", DOMAIN, 1,
        inputs=[Parameter("packed", "tensor(uint8)"), Parameter("multipliers", "tensor(int8)")],
        outputs=[Parameter("weight", "tensor(int8)")],
    ),
)  # fmt: skip


@torch.library.custom_op("dgemma::linear_int8", mutates_args=())
def linear_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [..., M, in] float32, weight int8 [..., in, out], scale float32 [..., out] → [..., M, out]; the graph's arithmetic."""
    integers, inverse = quantize_tokens(x)
    return (integers.double() @ weight.double()).float() * (1.0 / inverse) * scale[..., None, :]


@linear_int8.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty([*torch.broadcast_shapes(x.shape[:-2], weight.shape[:-2]), x.shape[-2], weight.shape[-1]])


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


def _translate_linear(x: Any, weight: Any, scale: Any) -> Any:
    """`quantize_tokens` and an integer product as ONNX nodes; onnxruntime makes one set of equal nodes for shared inputs."""
    largest = op.Max(op.ReduceMax(op.Abs(x), op.Constant(value_ints=[-1]), keepdims=1), op.Constant(value_float=SMALLEST))
    span = op.Add(largest, op.Mul(largest, op.Constant(value_float=LEAST)))
    inverse = op.Div(op.Constant(value_float=255.0), span)
    zero = op.Cast(op.Constant(value_int=128), to=2)
    integers = op.QuantizeLinear(op.Mul(x, inverse), op.Constant(value_float=1.0), zero)
    product = op.Cast(op.MatMulInteger(integers, weight, zero), to=1)
    return op.Mul(op.Mul(product, op.Reciprocal(inverse)), op.Unsqueeze(scale, op.Constant(value_ints=[-2])))


def _translate_expand(packed: Any, multipliers: Any) -> Any:
    return _expand_int4(packed, multipliers)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.dgemma.linear_int8.default: _translate_linear,
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
            return t.transpose(-2, -1).contiguous() if transpose else t.contiguous()

        self.register_buffer("scale", matrix.scale)
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
    """Integer product with a quantized weight; stacked matrices [E, …] give one product each."""

    hadamard: Tensor

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.weight = IntegerWeight(matrix, transpose=True)
        self.rotation = matrix.rotation
        if self.rotation is not None:
            self.register_buffer("hadamard", hadamard(self.rotation))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., M, in] → [..., M, out]."""
        if self.rotation is not None:
            x = (x.unflatten(-1, (-1, self.rotation)) @ self.hadamard).flatten(-2)
        return linear_int8(x, self.weight(), self.weight.scale)


class IntegerExperts(nn.Module):
    """Stacked experts as batched integer products; every expert is computed and weighted."""

    def __init__(self, gate_up: QuantizedMatrix, down: QuantizedMatrix) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = IntegerLinear(gate_up), IntegerLinear(down)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x [M, D], weights [M, E] → [M, D]."""
        gate, up = self.gate_up_proj(x[None]).chunk(2, dim=-1)  # [E, M, W]
        out = self.down_proj(nn.functional.gelu(gate, approximate="tanh") * up)  # [E, M, D]
        return (out * weights.t()[:, :, None]).sum(0)


class IntegerEmbedding(nn.Module):
    """The tied table, stored once: rows looked up, the head as an integer product, the soft embedding in float."""

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.table = IntegerWeight(matrix, transpose=matrix.bits == 4)
        self.weight = torch.empty(0)  # its dtype rounds the embedding scale

    def _rows(self, ids: Tensor) -> Tensor:
        """ids [...] → their rows, int8 [..., D]."""
        table = self.table()
        if self.table.transposed:
            return table.index_select(1, ids.flatten()).t().unflatten(0, ids.shape)
        return table[ids]

    def forward(self, tokens: Tensor) -> Tensor:
        return self._rows(tokens).float() * self.table.scale[tokens][..., None]

    def logits(self, x: Tensor) -> Tensor:
        table = self.table()
        return linear_int8(x, table if self.table.transposed else table.t(), self.table.scale)

    def expected(self, probabilities: Tensor) -> Tensor:
        """Mean embedding [B, N, D] of probabilities [B, N, V], in tiles of ids.

        A tile's ids depend on data, so that an engine cannot fold a float copy of the whole table into its session.
        """
        weighted, vocab = probabilities * self.table.scale, probabilities.shape[-1]
        zero = (probabilities[0, 0, :1] * 0).long()  # [1]
        total = None
        for start in range(0, vocab, TILE):
            size = min(TILE, vocab - start)
            tile = weighted[..., start : start + size] @ self._rows(zero + torch.arange(start, start + size)).float()
            total = tile if total is None else total + tile
        assert total is not None
        return total


def replace(model: nn.Module, quantized: Mapping[str, QuantizedMatrix], prefix: str = "") -> None:
    """Replace every Linear, and what else is quantized, in place."""
    for name, child in model.named_children():
        path = f"{prefix}{name}.weight"
        if isinstance(child, nn.Linear):
            setattr(model, name, IntegerLinear(quantized[path]) if path in quantized else InputMajorLinear(child))
        elif isinstance(child, nn.Embedding):
            if path in quantized:
                setattr(model, name, IntegerEmbedding(quantized[path]))
        elif isinstance(child, Experts):
            stacked = [f"{prefix}{name}.{part}_proj" for part in ("gate_up", "down")]
            if stacked[0] in quantized:
                setattr(model, name, IntegerExperts(*(quantized[part] for part in stacked)))
        else:
            replace(child, quantized, f"{prefix}{name}.")
