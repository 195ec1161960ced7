"""A layer's routed experts as one operator, which the native kernel of `runtime/native/experts` runs in every engine.

Here it is plain torch, up to the order of the sum over experts and the last bit of a GELU. Letters: K experts of a row,
D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dgemma.export.deferred import Make, defer, is_deferring
from dgemma.quantize.expert_layout import LaidOut, lay_out, put_back
from dgemma.quantize.fake_quant import FakeQuantExperts
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.read_checkpoint import outline


@torch.library.custom_op("dgemma::experts", mutates_args=())
def experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    gate_up_multipliers: Tensor,
    gate_up_scale: Tensor,
    down: Tensor,
    down_multipliers: Tensor,
    down_scale: Tensor,
    hidden: int,
    width: int,
    gate_up_group: int,
    down_group: int,
) -> Tensor:
    """Outputs of the chosen experts, weighted and added up.

    Args:
        x: float32 [..., D]; rounded to 8 bits per row.
        ids, weights: int64 and float32 [..., K].
        gate_up … down_scale: as `quantize.expert_layout.LaidOut` has them.
        hidden, width: D, and the width of an expert.
        gate_up_group, down_group: inputs to a multiplier; 0 for 8 bits.
    Returns:
        float32 [..., D].
    """
    stacks = (
        LaidOut(weight=gate_up, multipliers=gate_up_multipliers, scale=gate_up_scale, group=gate_up_group),
        LaidOut(weight=down, multipliers=down_multipliers, scale=down_scale, group=down_group),
    )
    return FakeQuantExperts(*put_back(*stacks, hidden=hidden, width=width))(x, weights, ids)


@experts.register_fake
def _(x: Tensor, *_: Tensor | int) -> Tensor:
    return torch.empty_like(x)


class RoutedExperts(nn.Module):
    """Quantized experts of a layer, of which the chosen ones are computed."""

    def __init__(self, gate_up: QuantizedMatrix, down: QuantizedMatrix, make: Make | None = None) -> None:
        """Of the matrices, or with `make`, which makes the parameters when they are written, of the matrices' form."""
        super().__init__()
        self.hidden, self.width = down.integers.shape[1:]
        stacks = lay_out(gate_up, down)
        self.groups = [stack.group for stack in stacks]
        for name, tensor in (_parts(*stacks) if make is None else defer(_parts(*stacks), make)).items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """x [..., D], weights and ids [..., K] → [..., D]."""
        return experts(
            x,
            ids,
            weights,
            self.gate_up,
            self.gate_up_multipliers,
            self.gate_up_scale,
            self.down,
            self.down_multipliers,
            self.down_scale,
            self.hidden,
            self.width,
            *self.groups,
        )


def _parts(gate_up: LaidOut, down: LaidOut) -> dict[str, Tensor]:
    """By the names that the operator has for them."""
    return {
        name + part: tensor
        for name, stack in (("gate_up", gate_up), ("down", down))
        for part, tensor in (("", stack.weight), ("_multipliers", stack.multipliers), ("_scale", stack.scale))
    }


def routed(quantized: Mapping[str, QuantizedMatrix], gate_up: str, down: str) -> RoutedExperts:
    """The experts whose matrices have these names. Inside of `deferring` they are laid out when they are written: together
    they are most of a model."""
    if not is_deferring():
        return RoutedExperts(quantized[gate_up], quantized[down])

    def make() -> dict[str, Tensor]:
        return _parts(*lay_out(quantized[gate_up], quantized[down]))

    return RoutedExperts(outline(quantized, gate_up), outline(quantized, down), make)
