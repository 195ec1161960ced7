"""Quantized experts as the native kernel reads them (`runtime/native/experts/experts.h`), and back.

They are laid out once, at export. Letters: E experts, O outputs, I inputs, P panels of 16 outputs. Nothing here knows of
engines or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.quantize.matrix import QuantizedMatrix

PANEL = 16
INPUTS, OUTPUTS = 8, 2 * PANEL  # what inputs and the outputs of down are filled up to a multiple of
GROUP = 8  # what the kernel's groups are multiples of
_AT_ONCE = 8  # experts that are laid out together, so that what that takes stays small


@dataclass(frozen=True, kw_only=True)
class LaidOut:
    """A stack of matrices [E, O, I].

    Args:
        weight: uint8 [E, P, blocks, 64]; 8-bit integers as their bytes, or two 4-bit ones, plus 8, to a byte.
        multipliers: uint8 [E, P, groups, 16]; empty for 8 bits.
        scale: float32 [E, P, 16].
        group: inputs to a multiplier; 0 for 8 bits.
    """

    weight: Tensor
    multipliers: Tensor
    scale: Tensor
    group: int


def lay_out(gate_up: QuantizedMatrix, down: QuantizedMatrix) -> tuple[LaidOut, LaidOut]:
    """gate_up [E, 2W, D] and down [E, D, W] for the kernel, at 4 bits where both have 4 and groups that it takes, else at 8."""
    assert gate_up.rotation is down.rotation is None, "recipes rotate no experts"
    first = range(0, down.integers.shape[0], _AT_ONCE)
    pairs = [_lay_out(_experts(gate_up, at), _experts(down, at)) for at in first]
    one, other = (_joined(stacks) for stacks in zip(*pairs, strict=True))
    return one, other


def _experts(matrix: QuantizedMatrix, first: int) -> QuantizedMatrix:
    """A few of a stack's."""
    part = slice(first, first + _AT_ONCE)
    multipliers = None if matrix.multipliers is None else matrix.multipliers[part]
    return replace(matrix, integers=matrix.integers[part], scale=matrix.scale[part], multipliers=multipliers)


def _joined(stacks: Sequence[LaidOut]) -> LaidOut:
    weight, multipliers, scale = ([getattr(s, name) for s in stacks] for name in ("weight", "multipliers", "scale"))
    return replace(stacks[0], weight=torch.cat(weight), multipliers=torch.cat(multipliers), scale=torch.cat(scale))


def _lay_out(gate_up: QuantizedMatrix, down: QuantizedMatrix) -> tuple[LaidOut, LaidOut]:
    width = down.integers.shape[-1]
    four = all(m.group is not None and m.group % GROUP == 0 for m in (gate_up, down))
    halves = (_filled(_rows(gate_up, at, at + width), PANEL, INPUTS, four) for at in (0, width))
    gate, up = (_panels(*half) for half in halves)
    paired = [torch.stack([a, b], 2).flatten(1, 2) for a, b in zip(gate, up, strict=True)]
    groups = [m.group or 0 if four else 0 for m in (gate_up, down)]
    return _made(paired, groups[0]), _made(_panels(*_filled(down, OUTPUTS, PANEL, four)), groups[1])


def _rows(matrix: QuantizedMatrix, first: int, last: int) -> QuantizedMatrix:
    multipliers = None if matrix.multipliers is None else matrix.multipliers[:, first:last]
    return QuantizedMatrix(
        bits=matrix.bits, integers=matrix.integers[:, first:last], scale=matrix.scale[:, first:last], multipliers=multipliers
    )


def _filled(matrix: QuantizedMatrix, outputs: int, inputs: int, four: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Integers, multipliers and scale with rows and columns of zeros, whose multipliers are 1."""
    integers = matrix.integers if four else matrix.expanded()
    more, wider = -integers.shape[1] % outputs, -integers.shape[2] % inputs
    multipliers = torch.empty(*integers.shape[:2], 0, dtype=torch.uint8)
    if four:
        assert matrix.multipliers is not None and matrix.group is not None
        groups = -(-(integers.shape[2] + wider) // matrix.group)
        multipliers = F.pad(matrix.multipliers.to(torch.uint8), (0, groups - matrix.multipliers.shape[2]), value=1)
    return (
        F.pad(integers, (0, wider, 0, more)),
        F.pad(multipliers, (0, 0, 0, more), value=1),
        F.pad(matrix.scale.float(), (0, more), value=1.0),
    )


def _panels(integers: Tensor, multipliers: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[E, O, I], [E, O, groups], [E, O] by panels; 4-bit integers, which have multipliers, in halves of bytes."""
    blocks = integers.unflatten(1, (-1, PANEL)).unflatten(3, (-1, 4)).transpose(2, 3)  # [E, P, I/4, 16, 4]
    if multipliers.shape[2]:
        halves = (blocks + 8).to(torch.uint8).unflatten(2, (-1, 2))
        stored = halves[:, :, :, 0] | halves[:, :, :, 1] << 4
    else:
        stored = blocks.contiguous().view(torch.uint8)
    return (stored.flatten(3), multipliers.unflatten(1, (-1, PANEL)).transpose(2, 3), scale.unflatten(1, (-1, PANEL)))


def _made(parts: Sequence[Tensor], group: int) -> LaidOut:
    weight, multipliers, scale = (part.contiguous() for part in parts)
    return LaidOut(weight=weight, multipliers=multipliers, scale=scale, group=group)


def put_back(gate_up: LaidOut, down: LaidOut, *, hidden: int, width: int) -> tuple[QuantizedMatrix, QuantizedMatrix]:
    """The inverse of `lay_out`."""
    gate, up = (_matrix(part, width, hidden) for part in (_every_other(gate_up, 0), _every_other(gate_up, 1)))
    multipliers = None
    if gate.multipliers is not None and up.multipliers is not None:
        multipliers = torch.cat([gate.multipliers, up.multipliers], 1)
    both = QuantizedMatrix(
        bits=gate.bits,
        integers=torch.cat([gate.integers, up.integers], 1),
        scale=torch.cat([gate.scale, up.scale], 1),
        multipliers=multipliers,
    )
    return both, _matrix(down, hidden, width)


def _every_other(laid_out: LaidOut, first: int) -> LaidOut:
    weight, multipliers, scale = (t[:, first::2] for t in (laid_out.weight, laid_out.multipliers, laid_out.scale))
    return LaidOut(weight=weight, multipliers=multipliers, scale=scale, group=laid_out.group)


def _matrix(laid_out: LaidOut, outputs: int, inputs: int) -> QuantizedMatrix:
    blocks = laid_out.weight.unflatten(3, (PANEL, 4))  # [E, P, blocks, 16, 4]
    if laid_out.group:
        blocks = torch.stack([blocks & 15, blocks >> 4], 3).flatten(2, 3).to(torch.int8) - 8
    else:
        blocks = blocks.view(torch.int8)
    integers = blocks.transpose(2, 3).flatten(3).flatten(1, 2)[:, :outputs, :inputs].contiguous()
    scale = laid_out.scale.flatten(1)[:, :outputs].contiguous()
    if not laid_out.group:
        return QuantizedMatrix(bits=8, integers=integers, scale=scale)
    groups = inputs // laid_out.group
    multipliers = laid_out.multipliers.transpose(2, 3).flatten(1, 2)[:, :outputs, :groups].to(torch.int8).contiguous()
    return QuantizedMatrix(bits=4, integers=integers, scale=scale, multipliers=multipliers)
