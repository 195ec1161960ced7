"""The parts of a denoiser that an ExecuTorch backend computes, as torch modules: self-conditioning, layers, tiles of the head.

They compute what `qnn/parts.py` writes for an NPU, from the same inputs: embeddings, tables of rotations and masks come from
the host. No tensor has more than four dimensions, and all are float32; a backend makes float16 of that. Letters: M rows, S
slots of a prefix, K kv heads, G heads for each of them, d head dim, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchao.quantization.quant_primitives import dequantize_affine  # noqa: F401  # registers the operator

from dgemma.core.config import ModelConfig
from dgemma.export.float16 import shrink_of
from dgemma.model.denoiser import Denoiser, RMSNorm
from dgemma.quantize.hadamard import hadamard
from dgemma.quantize.matrix import QuantizedMatrix

# The least root of a mean of squares: its square, 2⁻²⁴, is float16's smallest number. A chip may take such numbers for zero, so
# no ε is added that float16 has no normal number for, and rows of zeros, with which rows are filled up, are divided by this.
SMALLEST_ROOT = 2.0**-12
SMALLEST_NORMAL = 2.0**-14


class Norm(nn.Module):
    """RMSNorm whose squares float16 holds: of x·s, with ε·s²."""

    def __init__(self, norm: RMSNorm, largest: float | None) -> None:
        super().__init__()
        self.shrink = shrink_of(largest)
        epsilon = norm.eps * self.shrink**2
        self.epsilon = epsilon if epsilon >= SMALLEST_NORMAL else 0.0
        self.weight = norm.weight

    def forward(self, x: Tensor) -> Tensor:
        small = x * self.shrink
        mean = (small * small).mean(-1, keepdim=True)
        root = torch.sqrt(mean + self.epsilon if self.epsilon else mean).clamp(min=SMALLEST_ROOT)
        return small / root if self.weight is None else small / root * self.weight


class Product(nn.Module):
    """x [1, M, in] → [1, M, out], with a float weight [out, in]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class IntegerProduct(nn.Module):
    """x [1, M, in] → [1, M, out], with integers as they are: 8 bits with a scale for each output, 4 bits with one for each
    block, the multiplier times the output's."""

    integers: Tensor
    scale: Tensor
    hadamard: Tensor

    def __init__(self, matrix: QuantizedMatrix, *, zeros: bool = False) -> None:
        super().__init__()
        scale = matrix.scale[:, None] if matrix.multipliers is None else matrix.multipliers * matrix.scale[:, None]
        self.block = matrix.integers.shape[-1] // scale.shape[-1]
        self.least, self.most = (-128, 127) if matrix.multipliers is None else (-8, 7)
        self.register_buffer("integers", matrix.integers)
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("zeros", torch.zeros(scale.shape, dtype=torch.int8) if zeros else None)
        self.rotation = matrix.rotation
        if matrix.rotation is not None:
            self.register_buffer("hadamard", hadamard(matrix.rotation))

    def forward(self, x: Tensor) -> Tensor:
        if self.rotation is not None:
            x = (x.reshape(-1, self.rotation) @ self.hadamard).reshape(x.shape)
        weight = torch.ops.torchao.dequantize_affine.default(
            self.integers, [1, self.block], self.scale, self.zeros, torch.int8, self.least, self.most
        )
        return F.linear(x, weight)


class GatedMLP(nn.Module):
    def __init__(self, gate: nn.Module, up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


@dataclass(frozen=True, kw_only=True)
class Source:
    """What modules are made from: the float model, integers of matrices, ranges by name; whether `zeros` of integers are
    written out, which a backend may ask for. A matrix has one module, so that all methods share it."""

    model: Denoiser
    quantized: Mapping[str, QuantizedMatrix]
    ranges: Mapping[str, float]
    zeros: bool = False
    _made: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def product(self, path: str) -> nn.Module:
        if path not in self._made:
            matrix = self.quantized.get(f"{path}.weight")
            weight = self.model.get_parameter(f"{path}.weight")
            self._made[path] = Product(weight) if matrix is None else IntegerProduct(matrix, zeros=self.zeros)
        return self._made[path]

    def norm(self, path: str) -> Norm:
        module = self.model.get_submodule(path)
        assert isinstance(module, RMSNorm)
        return Norm(module, self.ranges.get(f"{path}.in"))

    def mlp(self, path: str) -> GatedMLP:
        return GatedMLP(*(self.product(f"{path}.{part}") for part in ("gate_proj", "up_proj", "down_proj")))


class Attention(nn.Module):
    def __init__(self, source: Source, layer: int) -> None:
        super().__init__()
        config, path = source.config, f"layers.{layer}.self_attn"
        self.heads, self.kv, self.dim = config.num_heads, config.layer_kv_heads(layer), config.layer_head_dim(layer)
        self.q_proj, self.k_proj, self.o_proj = (source.product(f"{path}.{name}") for name in ("q_proj", "k_proj", "o_proj"))
        self.v_proj = None if config.is_full(layer) else source.product(f"{path}.v_proj")
        self.q_norm, self.k_norm, self.v_norm = (source.norm(f"{path}.{name}") for name in ("q_norm", "k_norm", "v_norm"))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, prefix: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """x [1, M, D], cos and sin [M, 1, d/2], bias [M, S+M], prefix [1, S, K, d] each → output, keys, values."""
        rows, groups = x.shape[1], self.heads // self.kv
        width = bias.shape[-1]

        def rotate(x: Tensor) -> Tensor:
            a, b = torch.split(x, [self.dim // 2] * 2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        raw = self.k_proj(x).reshape(1, rows, self.kv, self.dim)
        q = rotate(self.q_norm(self.q_proj(x).reshape(1, rows, self.heads, self.dim)))
        k = rotate(self.k_norm(raw))
        v = self.v_norm(raw if self.v_proj is None else self.v_proj(x).reshape(1, rows, self.kv, self.dim))
        keys = torch.cat([prefix[0], k], 1).permute(0, 2, 3, 1)  # [1, K, d, S+M]
        seen = torch.cat([prefix[1], v], 1).permute(0, 2, 1, 3)  # [1, K, S+M, d]
        q = q.permute(0, 2, 1, 3).reshape(1, self.kv, groups * rows, self.dim)
        scores = (q @ keys).reshape(self.kv, groups, rows, width) + bias
        weights = torch.softmax(scores, -1).reshape(1, self.kv, groups * rows, width)
        mixed = (weights @ seen).reshape(1, self.heads, rows, self.dim).permute(0, 2, 1, 3)
        return self.o_proj(mixed.reshape(1, rows, self.heads * self.dim)), k, v


class Layer(nn.Module):
    def __init__(self, source: Source, layer: int) -> None:
        super().__init__()
        path = f"layers.{layer}"
        self.self_attn, self.mlp = Attention(source, layer), source.mlp(f"{path}.mlp")
        self.input_layernorm, self.post_attention_layernorm, self.pre_feedforward_layernorm, self.post_feedforward_layernorm = (
            source.norm(f"{path}.{name}")
            for name in (
                "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
            )
        )  # fmt: skip

    def forward(
        self, x: Tensor, scalar: Tensor, tables: tuple[Tensor, Tensor, Tensor], prefix: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        attended, k, v = self.self_attn(self.input_layernorm(x), *tables, prefix)
        x = x + self.post_attention_layernorm(attended)
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x * scalar, k, v


class Condition(nn.Module):
    """embedded, soft [1, M, D] → conditioned [1, M, D]."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        path = "self_conditioning"
        self.mlp = source.mlp(path)
        self.pre_norm, self.post_norm = source.norm(f"{path}.pre_norm"), source.norm(f"{path}.post_norm")

    def forward(self, embedded: Tensor, soft: Tensor) -> Tensor:
        return self.post_norm(embedded + self.mlp(self.pre_norm(soft)))


class Layers(nn.Module):
    """Layers `span`; inputs and outputs in the order of `forms.layers`."""

    def __init__(self, source: Source, span: tuple[int, int]) -> None:
        super().__init__()
        config = source.config
        self.full = [config.is_full(i) for i in range(*span)]
        self.layers = nn.ModuleList(Layer(source, i) for i in range(*span))
        self.norm = source.norm("norm") if span[1] == config.num_layers else None

    def forward(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given, new = iter(rest), list[Tensor]()
        tables = {full: (next(given), next(given), next(given)) for full in sorted(set(self.full))}
        scalars = [next(given) for _ in self.layers]
        for layer, full, scalar in zip(self.layers, self.full, scalars, strict=True):
            x, k, v = layer(x, scalar, tables[full], (next(given), next(given)))
            new += [k, v]
        return (x if self.norm is None else self.norm(x), *new)


class Head(nn.Module):
    """hidden [1, M, D] → products with the rows `span` of the table [1, M, ids]; the cap is the host's, in float32."""

    def __init__(self, source: Source, span: tuple[int, int]) -> None:
        super().__init__()
        first, last = span
        matrix = source.quantized.get("embed_tokens.weight")
        if matrix is None:
            self.product: nn.Module = Product(source.model.embed_tokens.weight[first:last])
        else:
            assert matrix.multipliers is None, "checks.py refuses tables of 4 bits"
            tile = QuantizedMatrix(bits=8, integers=matrix.integers[first:last], scale=matrix.scale[first:last])
            self.product = IntegerProduct(tile, zeros=source.zeros)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.product(hidden)
