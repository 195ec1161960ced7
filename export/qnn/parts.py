"""The parts of a denoiser that an NPU computes, as static graphs: self-conditioning, layers, tiles of the head.

What a host has to look up or compute in another precision comes in as inputs: embeddings, tables of rotations, masks. One
graph of layers serves both modes, for masks and layer scalars are inputs too. Letters: M rows, S slots of a full layer's
prefix, L of a sliding one's, K kv heads, G heads for each of them, d head dim, D hidden, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.export.float16 import SMALLEST, shrink_of
from dgemma.export.onnx.linear import pack
from dgemma.export.onnx.weights import WeightFile
from dgemma.export.qnn.graph import Array, StaticNet
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.hadamard import hadamard
from dgemma.quantize.matrix import QuantizedMatrix

# Ranges of 16-bit activations over the largest magnitude seen: other prompts go up to 1.6 times beyond what four show (tiny).
HEADROOM = 2.0
SOFTMAX = "softmax"  # name of the range of all softmaxes


@dataclass(frozen=True, kw_only=True)
class Source:
    """What graphs are made from: the float model, integers of matrices, and ranges of activations by name. `rounded`: of
    what is rounded to 16 bits in a graph of integers, in `headroom` times the range that was seen: `products` (what they read
    and write), `norms`, `softmax`, `rotations`."""

    model: Denoiser
    quantized: Mapping[str, QuantizedMatrix]
    ranges: Mapping[str, float]
    weights: WeightFile
    rounded: frozenset[str] = frozenset({"products"})
    headroom: float = HEADROOM
    stored: dict[tuple[str, int], onnx.TensorProto] = field(default_factory=dict)  # what the graphs share

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def net(self, name: str) -> StaticNet:
        spans = {key: self.headroom * largest for key, largest in self.ranges.items()} | {SOFTMAX: 1.0}
        return StaticNet(name, self.weights, spans if self.rounded and self.quantized else None, self.stored)

    def array(self, name: str) -> Array:
        """A float parameter or buffer."""
        found = self.model.get_parameter(name) if not name.endswith("_scalar") else self.model.get_buffer(name)
        return _array(found)


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().numpy()
    return found


class PartNet:
    """The model's operations on a net."""

    def __init__(self, source: Source, net: StaticNet, rows: int) -> None:
        self.source, self.net, self.rows = source, net, rows

    def rounded(self, group: str, key: str, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """One node, whose output is rounded where values of that group are; `key` names the range."""
        if group in self.source.rounded and self.net.rounds:
            return self.net.round16(self.net.op(kind, *inputs, **attributes), key, out=out)
        return self.net.op(kind, *inputs, out=out, **attributes)

    def norm(self, x: str, path: str, *, weight: bool = True, out: str | None = None) -> str:
        """RMSNorm written so that float16 holds its squares: of x·s, with ε·s², which is the same."""
        net, config = self.net, self.source.config
        shrink = shrink_of(self.source.ranges.get(f"{path}.in"))
        small = net.op("Mul", x, net.scalar(shrink))
        mean = net.op("ReduceMean", net.op("Mul", small, small), net.ints(-1), keepdims=1)
        root = net.op("Sqrt", net.op("Add", mean, net.scalar(max(config.rms_norm_eps * shrink**2, SMALLEST))))
        key = f"{path}.out"
        if not weight:
            return self.rounded("norms", key, "Div", small, root, out=out)
        scale = net.constant(self.source.array(f"{path}.weight"))
        return self.rounded("norms", key, "Mul", net.op("Div", small, root), scale, out=out)

    def linear(self, x: str, path: str, *, out: str | None = None) -> str:
        """x [1, M, in] → [1, M, out]."""
        net, name = self.net, f"{path}.weight"
        matrix = self.source.quantized.get(name)
        if matrix is None:
            parameter = self.source.model.get_parameter(name)
            return net.op("MatMul", x, net.constant(lambda: _array(parameter.t()), name), out=out)
        if matrix.rotation is not None:
            x = self._rotate(x, matrix.rotation, matrix.integers.shape[-1])
        return self.product(x, path, name, matrix, out=out)

    def product(self, x: str, path: str, name: str, matrix: QuantizedMatrix, *, first: int = 0, out: str | None = None) -> str:
        """Of integers, whose inputs and outputs are rounded where the net rounds; `out` is of what is rounded. `first` is the
        row of the table that a tile begins with."""
        if "products" in self.source.rounded:
            x = self.net.round16(x, f"{path}.in")
        return self.rounded("products", f"{path}.out", "MatMul", x, self._integers(name, matrix, first), out=out)

    def _rotate(self, x: str, block: int, inputs: int) -> str:
        net = self.net
        parts = net.reshape(x, 1, self.rows * (inputs // block), block)
        return net.reshape(
            net.op("MatMul", parts, net.constant(_array(hadamard(block)), f"hadamard.{block}")), 1, self.rows, inputs
        )

    def _integers(self, name: str, matrix: QuantizedMatrix, first: int) -> str:
        """A matrix [in, out] of integers: 8-bit ones with a scale for each output, 4-bit ones with one for each block, which is
        the multiplier times the output's. An odd number of outputs has no packed form, and gets 8 bits."""
        outputs, multipliers = len(matrix.scale), matrix.multipliers

        def constant(part: str, make: Callable[[], Array], *, int4: bool = False) -> str:
            return self.net.constant(make, f"{name}.{part}", int4=int4, first=first)

        if multipliers is None or outputs % 2:
            stored = constant("integers", lambda: matrix.expanded().t().contiguous().numpy())
            zeros = constant("zero", lambda: np.zeros(outputs, np.int8))
            return self.net.op("DequantizeLinear", stored, constant("scale", lambda: _array(matrix.scale)), zeros, axis=1)
        packed = constant("integers", lambda: pack(matrix.integers.t().contiguous()).numpy(), int4=True)
        scales = constant("scale", lambda: _array((multipliers * matrix.scale[:, None]).t()))
        zeros = constant("zero", lambda: np.zeros((multipliers.shape[-1], outputs // 2), np.uint8), int4=True)
        return self.net.op("DequantizeLinear", packed, scales, zeros, axis=0, block_size=matrix.group)

    def mlp(self, x: str, path: str, *, out: str | None = None) -> str:
        gate = self.net.op("Gelu", self.linear(x, f"{path}.gate_proj"), approximate="tanh")
        return self.linear(self.net.op("Mul", gate, self.linear(x, f"{path}.up_proj")), f"{path}.down_proj", out=out)

    def rotate(self, x: str, cos: str, sin: str, key: str, out: str) -> str:
        """Rotary embedding, x [1, M, heads, d] in the range `key`, cos and sin [M, 1, d/2]."""
        net = self.net
        a, b = f"{out}.a", f"{out}.b"
        net.ops("Split", x, (a, b), axis=-1, num_outputs=2)
        low = net.op("Sub", net.op("Mul", a, cos), net.op("Mul", b, sin))
        high = net.op("Add", net.op("Mul", b, cos), net.op("Mul", a, sin))
        return self.rounded("rotations", key, "Concat", low, high, out=out, axis=-1)

    def attention(
        self, x: str, layer: int, tables: tuple[str, str, str], prefix: tuple[str, str], slots: int
    ) -> tuple[str, str, str]:
        """x [1, M, D], tables (cos, sin, bias [M, slots+M]), prefix [1, slots, K, d] each → output, keys, values."""
        net, config, rows = self.net, self.source.config, self.rows
        path, tap = f"layers.{layer}.self_attn", f"layers.{layer}."
        heads, kv, dim = config.num_heads, config.layer_kv_heads(layer), config.layer_head_dim(layer)
        cos, sin, bias = tables

        def split(value: str, count: int) -> str:
            return net.reshape(value, 1, rows, count, dim)

        raw = split(self.linear(x, f"{path}.k_proj"), kv)
        q = self.norm(split(self.linear(x, f"{path}.q_proj"), heads), f"{path}.q_norm")
        q = self.rotate(q, cos, sin, f"{path}.q_norm.out", f"{tap}q")
        k = self.rotate(self.norm(raw, f"{path}.k_norm"), cos, sin, f"{path}.k_norm.out", f"{tap}k")
        values = raw if config.is_full(layer) else split(self.linear(x, f"{path}.v_proj"), kv)
        v = self.norm(values, f"{path}.v_norm", weight=False, out=f"{tap}v")
        keys = net.op("Transpose", net.op("Concat", prefix[0], k, axis=1), perm=[0, 2, 3, 1])  # [1, K, d, slots+M]
        seen = net.op("Transpose", net.op("Concat", prefix[1], v, axis=1), perm=[0, 2, 1, 3])  # [1, K, slots+M, d]
        groups, width = heads // kv, slots + rows
        q = net.reshape(net.op("Transpose", q, perm=[0, 2, 1, 3]), 1, kv, groups * rows, dim)
        scores = net.reshape(net.op("MatMul", q, keys), kv, groups, rows, width)
        weights = self.rounded("softmax", SOFTMAX, "Softmax", net.op("Add", scores, bias), axis=-1)
        weights = net.reshape(weights, 1, kv, groups * rows, width)
        mixed = net.reshape(net.op("MatMul", weights, seen), 1, heads, rows, dim)
        mixed = net.reshape(net.op("Transpose", mixed, perm=[0, 2, 1, 3]), 1, rows, heads * dim)
        return self.linear(mixed, f"{path}.o_proj", out=f"{tap}attention_out"), k, v

    def layer(self, x: str, i: int, scalar: str, tables: tuple[str, str, str], slots: int) -> str:
        net, path = self.net, f"layers.{i}"
        config = self.source.config
        shape = (1, slots, config.layer_kv_heads(i), config.layer_head_dim(i))
        prefix = net.input(f"prefix_key_{i}", shape), net.input(f"prefix_value_{i}", shape)
        entering = self.norm(x, f"{path}.input_layernorm", out=f"{path}.attention_in")
        attended, k, v = self.attention(entering, i, tables, prefix, slots)
        own = (1, self.rows, *shape[2:])
        net.output(k, f"new_key_{i}", own)
        net.output(v, f"new_value_{i}", own)
        x = net.op("Add", x, self.norm(attended, f"{path}.post_attention_layernorm"))
        reading = self.norm(x, f"{path}.pre_feedforward_layernorm", out=f"{path}.mlp_in")
        written = self.mlp(reading, f"{path}.mlp", out=f"{path}.mlp_out")
        x = net.op("Add", x, self.norm(written, f"{path}.post_feedforward_layernorm"))
        return net.op("Mul", x, scalar, out=f"{path}.out")


def condition(source: Source, name: str, rows: int) -> StaticNet:
    """embedded, soft [1, M, D] → conditioned [1, M, D]."""
    net = source.net(name)
    part, shape = PartNet(source, net, rows), (1, rows, source.config.hidden_size)
    embedded, soft = net.input("embedded", shape), net.input("soft", shape)
    path = "self_conditioning"
    signal = part.mlp(part.norm(soft, f"{path}.pre_norm"), path)
    x = part.norm(net.op("Add", embedded, signal), f"{path}.post_norm", weight=False)
    net.output(x, "conditioned", shape)
    return net


def layers(source: Source, name: str, span: tuple[int, int], rows: int, slots: int, local: int) -> StaticNet:
    """Layers `span`: x [1, M, D], scalar_I [1], cos and sin [M, 1, d/2] and bias [M, slots+M] of both kinds of layer, prefix →
    x or, behind the last layer, hidden [1, M, D]; new keys and values."""
    config, net = source.config, source.net(name)
    part, first, last = PartNet(source, net, rows), *span
    x = net.input("x", (1, rows, config.hidden_size))
    tables: dict[bool, tuple[str, str, str]] = {}
    for full in sorted({config.is_full(i) for i in range(first, last)}):
        kind, dim = ("full", config.global_head_dim) if full else ("sliding", config.head_dim)
        cos, sin = (net.input(f"{f}_{kind}", (rows, 1, dim // 2)) for f in ("cos", "sin"))
        tables[full] = cos, sin, net.input(f"bias_{kind}", (rows, (slots if full else local) + rows))
    for i in range(first, last):
        scalar, full = net.input(f"scalar_{i}", (1,)), config.is_full(i)
        x = part.layer(x, i, scalar, tables[full], slots if full else local)
    if last == config.num_layers:
        x = part.norm(x, "norm")
    net.output(x, "hidden", (1, rows, config.hidden_size))
    return net


def head(source: Source, name: str, span: tuple[int, int], rows: int) -> StaticNet:
    """hidden [1, M, D] → products with the rows `span` of the table, [1, M, ids]; the cap is the host's, in float32."""
    net, (first, last) = source.net(name), span
    hidden = net.input("hidden", (1, rows, source.config.hidden_size))
    path = "embed_tokens"
    matrix = source.quantized.get(f"{path}.weight")
    part = PartNet(source, net, rows)
    if matrix is None:
        table = source.model.embed_tokens.weight[first:last]
        products = net.op("MatMul", hidden, net.constant(lambda: _array(table.t()), f"{path}.weight", first=first))
    else:
        tile = QuantizedMatrix(bits=8, integers=matrix.expanded()[first:last], scale=matrix.scale[first:last])
        products = part.product(hidden, path, f"{path}.weight", tile, first=first)
    net.output(products, "products", (1, rows, last - first))
    return net
