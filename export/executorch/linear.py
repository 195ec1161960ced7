"""Integer products and the tied table as modules that replace torch's.

A table is stored once: the rows that are looked up and the tiles of the head and of the soft embedding have the same bytes, and
`dedup_constants.py` stores equal bytes once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgemma.export.executorch import ops
from dgemma.export.executorch.dedup_constants import Table
from dgemma.export.experts import routed
from dgemma.model.denoiser import Experts
from dgemma.quantize.activations import quantize_tokens
from dgemma.quantize.matrix import QuantizedMatrix

TILE = 4096  # ids of the table that are multiplied at once, a multiple of the sampler's blocks: few enough to stay in a cache


def constant(tensor: Tensor) -> nn.Parameter:
    """No buffer: buffers that a lowered module has in its delegates alone would be written among the constants again."""
    return nn.Parameter(tensor, requires_grad=False)


class IntegerLinear(nn.Module):
    """One quantized matrix [out, in], 8 bits per channel or 4 bits in groups."""

    weight: Tensor
    scale: Tensor

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.group, self.rotation = matrix.group or 0, matrix.rotation or 0
        padded = F.pad(matrix.integers, (0, ops.padding(self.group)))
        if matrix.multipliers is None:
            self.register_parameter("weight", constant(padded))
            self.register_parameter("scale", constant(matrix.scale.float()))
        else:
            multipliers = F.pad(matrix.multipliers, (0, 1), value=1)  # one more group, of zeros
            scale = multipliers * matrix.scale[:, None]
            self.register_parameter("weight", constant(ops.pack(padded)))
            self.register_parameter("scale", constant(scale.bfloat16()))
            assert torch.equal(self.scale.float(), scale), "a group's scale is not exact in bfloat16"

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out]."""
        return ops.integer_linear(x, self.weight, self.scale, self.group, self.rotation)


def tiled(table: Tensor, size: int) -> list[Tensor]:
    return [table[start : start + size] for start in range(0, table.shape[0], size)]


def _summed(share: Callable[[Tensor, int], Tensor], weights: Tensor) -> Tensor:
    starts = range(0, weights.shape[-1], TILE)  # slices, for a split would be no part of XNNPACK's program
    first, *others = (share(weights[..., start : start + TILE], i) for i, start in enumerate(starts))
    return sum(others, first)


class IntegerEmbedding(IntegerLinear):
    """The tied table [V, D]: rows looked up and dequantized, and the head as an integer product."""

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__(matrix)
        self.hidden = matrix.integers.shape[1]
        self.columns = self.hidden + ops.padding(self.group)
        if self.group:
            assert matrix.multipliers is not None
            for i, tile in enumerate(tiled(F.pad(matrix.multipliers, (0, 1), value=1), TILE)):
                self.register_parameter(f"multipliers_{i}", constant(tile[None, ..., None]))
        for i, tile in enumerate(tiled(self.weight, TILE)):
            self.register_parameter(f"soft_{i}", constant(tile[None]))
            row_scale = matrix.scale[i * TILE : (i + 1) * TILE].float().clone()  # loops take no two inputs of one storage
            self.register_parameter(f"row_scale_{i}", constant(row_scale))
        for i, (tile, scale) in enumerate(self._tiles()):
            self.register_parameter(f"tile_{i}", constant(tile))
            self.register_parameter(f"tile_scale_{i}", constant(scale))

    def _tiles(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(tiled(self.weight, TILE), tiled(self.scale, TILE), strict=True))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [1, N] → [1, N, D]."""
        return self.padded(tokens)[..., : self.hidden]

    def padded(self, tokens: Tensor) -> Tensor:
        """tokens [1, N] → rows with the columns of zeros that follow them, [1, N, D + padding]."""
        rows = ops.to_float(F.embedding(tokens, self.weight))
        if not self.group:
            return rows * F.embedding(tokens, self.scale[:, None])
        low, high = _halves(rows)
        scales = F.embedding(tokens, self.scale).float()[..., None]  # [1, N, groups, 1]
        integers = torch.stack([low, high], -1).flatten(-2).unflatten(-1, (-1, self.group))
        return (integers * scales).flatten(-2)

    def read(self, x: Tensor) -> Tensor:
        """x [1, N, D] as products read it: rounded."""
        integers, inverse = quantize_tokens(x)
        return integers / inverse

    def product(self, x: Tensor, tile: int) -> Tensor:
        """x [1, N, D] → logits of a tile's ids, [1, N, t]."""
        weight, scale = getattr(self, f"tile_{tile}"), getattr(self, f"tile_scale_{tile}")
        return ops.integer_linear(x, weight, scale, self.group, self.rotation)

    def logits(self, x: Tensor) -> Tensor:
        """x [1, N, D] → [1, N, V], which is held whole."""
        return torch.cat([self.product(x, i) for i in range(len(self._tiles()))], -1)

    def share(self, weights: Tensor, tile: int) -> Tensor:
        """Weighted sum of a tile's rows, [1, N, t] → [1, N, D + padding]; a float product, for weights are not rounded."""
        return self._product(tile, weights * getattr(self, f"row_scale_{tile}"))

    def expected(self, weights: Tensor) -> Tensor:
        """Weighted sum of all rows, [1, N, V] → [1, N, D]."""
        return _summed(self.share, weights)[..., : self.hidden]

    def tables(self, name: str) -> list[Table]:
        """What is stored of this table more than once."""
        parts, scales, width = {}, {}, self.weight.shape[1]
        for i, (tile, scale) in enumerate(self._tiles()):
            parts[f"{name}.tile_{i}/{tile.shape[0]}/{self.group}"] = (i * TILE * width, tile.numel())
            scales[f"{name}.tile_{i}/scale"] = (i * TILE * scale[0].nbytes, scale.nbytes)
        parts |= {f"{name}.soft_{i}": (i * TILE * width, t.numel()) for i, t in enumerate(tiled(self.weight, TILE))}
        return [Table(tensor=self.weight, parts=parts), Table(tensor=self.scale, parts=scales)]

    def _product(self, i: int, weights: Tensor) -> Tensor:
        """weights [1, N, ids] times a tile's integers → [1, N, D + padding]; `bmm`, for XNNPACK takes no `mm`."""
        table = ops.to_float(getattr(self, f"soft_{i}"))  # [1, ids, columns or half of them]
        if not self.group:
            return torch.bmm(weights, table)
        multipliers = ops.to_float(getattr(self, f"multipliers_{i}"))  # [1, ids, groups, 1]
        halves = [ops.flat(ops.heads(half, multipliers.shape[2]) * multipliers) for half in _halves(table)]
        return torch.stack([torch.bmm(weights, half) for half in halves], -1).flatten(-2)


def _halves(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes as float, as `ops.pack` makes them → even and odd columns' integers."""
    high = torch.floor(packed * 0.0625)
    return packed - high * 16 - 8, high - 8


class FloatEmbedding(nn.Module):
    """The tied table [V, D] in float32, its soft embedding in tiles."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.columns = weight.shape[1]
        self.register_parameter("weight", constant(weight))
        for i, tile in enumerate(tiled(weight, TILE)):
            self.register_parameter(f"soft_{i}", constant(tile[None].clone()))  # loops take no two inputs of one storage
            self.register_parameter(f"tile_{i}", constant(tile.clone()))  # of a view, XNNPACK's linear writes the whole storage

    weight: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)

    padded = forward

    def read(self, x: Tensor) -> Tensor:
        """As `IntegerEmbedding.read`: as it is."""
        return x

    def product(self, x: Tensor, tile: int) -> Tensor:
        """As `IntegerEmbedding.product`."""
        return F.linear(x, getattr(self, f"tile_{tile}"))

    def logits(self, x: Tensor) -> Tensor:
        """As `IntegerEmbedding.logits`."""
        return torch.cat([self.product(x, i) for i in range(len(tiled(self.weight, TILE)))], -1)

    def tables(self, name: str) -> list[Table]:
        """What is stored of this table more than once: XNNPACK's own name of a tile of the head is its hash."""
        parts, first = {}, 0
        for tile in tiled(self.weight, TILE):
            raw = tile.contiguous().numpy().data
            parts[hashlib.sha256(raw).hexdigest()] = (first, raw.nbytes)
            first += raw.nbytes
        return [Table(tensor=self.weight, parts=parts)]

    def share(self, weights: Tensor, tile: int) -> Tensor:
        """As `IntegerEmbedding.share`."""
        return torch.bmm(weights, getattr(self, f"soft_{tile}"))

    def expected(self, weights: Tensor) -> Tensor:
        """As `IntegerEmbedding.expected`."""
        return _summed(self.share, weights)


def replace(model: nn.Module, quantized: Mapping[str, QuantizedMatrix], prefix: str = "") -> None:
    """Replace every quantized Linear, stack of experts and the tied embedding, in place."""
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, Experts) and f"{path}.gate_up_proj" in quantized:
            setattr(model, name, routed(quantized, f"{path}.gate_up_proj", f"{path}.down_proj"))
        elif isinstance(child, nn.Embedding):
            matrix = quantized.get(f"{path}.weight")
            setattr(model, name, FloatEmbedding(child.weight.detach()) if matrix is None else IntegerEmbedding(matrix))
        elif f"{path}.weight" in quantized:
            setattr(model, name, IntegerLinear(quantized[f"{path}.weight"]))
        else:
            replace(child, quantized, f"{path}.")
