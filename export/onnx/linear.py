"""Matrix products in the form that ONNX engines like, as modules that replace torch's.

Float weights are stored input-major, so that no Transpose is left. Integer products follow the recipe's one set of
integers with activations quantized per token: each row is divided by its largest magnitude before onnxruntime's
per-tensor DynamicQuantizeLinear and multiplied back after, for one outlier row would ruin all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset21 as op
from torch import Tensor, nn

from dgemma.quantize.integers import QuantizedMatrix

_SMALLEST = 1e-30  # divisor for rows of zeros


@torch.library.custom_op("dgemma::linear_int8", mutates_args=())
def linear_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [..., in] float32, weight int8 [in, out], scale float32 [out] → [..., out]; the integer arithmetic of the graph."""
    rows = x.abs().amax(-1, keepdim=True).clamp(min=_SMALLEST)
    scaled = x / rows
    low, high = scaled.amin().clamp(max=0.0), scaled.amax().clamp(min=0.0)
    step = (high - low) / 255 if bool(high > low) else torch.ones(())
    zero = (-low / step).round().clamp(0, 255)
    integers = ((scaled / step).round() + zero).clamp(0, 255) - zero
    return (integers.double() @ weight.double()).float() * (step * scale) * rows


@linear_int8.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty([*x.shape[:-1], weight.shape[1]])


def _translate(x: Any, weight: Any, scale: Any) -> Any:
    """The same as ONNX nodes, in the shape that onnxruntime fuses into DynamicQuantizeMatMul."""
    rows = op.Max(op.ReduceMax(op.Abs(x), op.Constant(value_ints=[-1]), keepdims=1), op.Constant(value_float=_SMALLEST))
    integers, step, zero = op.DynamicQuantizeLinear(op.Div(x, rows))
    product = op.Cast(op.MatMulInteger(integers, weight, zero), to=1)
    return op.Mul(op.Mul(product, op.Mul(step, scale)), rows)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.dgemma.linear_int8.default: _translate}


class InputMajorLinear(nn.Module):
    """y = x @ weight with weight [in, out], a copy of a Linear's transposed weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().t().contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out]."""
        return torch.matmul(x, self.weight)


class Int8Linear(nn.Module):
    """Integer product with a quantized weight, stored [in, out]."""

    weight: Tensor
    scale: Tensor

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.register_buffer("weight", matrix.integers.t().contiguous())
        self.register_buffer("scale", matrix.scale)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out]."""
        return linear_int8(x, self.weight, self.scale)


class Int8Embedding(nn.Module):
    """The tied table as one int8 tensor [V, D] with a scale per id."""

    integers: Tensor
    scale: Tensor

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.register_buffer("integers", matrix.integers)
        self.register_buffer("scale", matrix.scale)
        self.weight = torch.empty(0)  # its dtype rounds the embedding scale

    def forward(self, tokens: Tensor) -> Tensor:
        return self.integers[tokens].float() * self.scale[tokens][..., None]

    def logits(self, x: Tensor) -> Tensor:
        return linear_int8(x, self.integers.t(), self.scale)

    def expected(self, probabilities: Tensor) -> Tensor:
        return (probabilities * self.scale) @ self.integers.float()


def replace(model: nn.Module, quantized: dict[str, QuantizedMatrix], prefix: str = "") -> None:
    """Replace every Linear, and the tied embedding where it is quantized, in place."""
    for name, child in model.named_children():
        path = f"{prefix}{name}.weight"
        if isinstance(child, nn.Linear):
            setattr(model, name, Int8Linear(quantized[path]) if path in quantized else InputMajorLinear(child))
        elif isinstance(child, nn.Embedding):
            if path in quantized:
                setattr(model, name, Int8Embedding(quantized[path]))
        else:
            replace(child, quantized, f"{prefix}{name}.")
