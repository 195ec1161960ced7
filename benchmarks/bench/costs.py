"""The cost model: operations and bytes of encode, denoise and decode, from the manifest's config and recipe.

Norms, rotations, softmax and the sampler are left out; an activation's bytes too, for caches hold them. N canvas, C tokens
of a chunk, S prefix, D hidden, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dgemma.core.config import ModelConfig

FLOAT = 32


@dataclass(frozen=True, kw_only=True)
class Product:
    """The matrices of one tensor class in one call: operations (a multiply-add is two) and weights that are read."""

    bits: int
    operations: int
    weights: int

    @property
    def bytes(self) -> int:
        return self.weights * self.bits // 8


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one engine call. `attention` counts scores and weighted values; `cache_bytes` the float32 keys and values read."""

    products: dict[str, Product]
    attention: int
    cache_bytes: int

    @property
    def operations(self) -> int:
        return sum(p.operations for p in self.products.values()) + self.attention

    @property
    def weight_bytes(self) -> int:
        return sum(p.bytes for p in self.products.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "operations": self.operations, "weight_bytes": self.weight_bytes}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A bundle's shape and the bits in which its engine's kernels hold each tensor class.

    Args:
        bits: tensor class → bits, as recipes name the classes; a class that is missing is float32.
        soft: soft embeddings are a product of the whole distribution with the table ("exact"), or gathered rows.
    """

    config: ModelConfig
    bits: Mapping[str, int]
    soft: str = "exact"

    def stack(self, rows: int) -> dict[str, tuple[int, int]]:
        """Tensor class → weights that one row is multiplied with, and weights that `rows` rows read, over all layers."""
        c, layers = self.config, self.config.num_layers
        attention = 0
        for i in range(layers):
            projections = 2 * c.num_heads + (1 if c.is_full(i) else 2) * c.layer_kv_heads(i)  # full layers have no v_proj
            attention += c.hidden_size * c.layer_head_dim(i) * projections
        plane = layers * c.hidden_size * c.intermediate_size
        found = {"attention": (attention, attention), "mlp_up_gate": (2 * plane, 2 * plane), "mlp_down": (plane, plane)}
        if c.num_experts and c.top_k_experts and c.moe_intermediate_size:
            router, expert = layers * c.hidden_size * c.num_experts, 3 * layers * c.hidden_size * c.moe_intermediate_size
            touched = min(c.num_experts, rows * c.top_k_experts)  # at most
            found |= {"router": (router, router), "experts": (c.top_k_experts * expert, touched * expert)}
        return found

    def _cost(self, rows: int, prefix: int, once: Mapping[str, int], repeats: Mapping[str, int]) -> Cost:
        """The stack over `rows` rows, and the matrices `once`, each multiplied `repeats` times (default 1)."""
        used = {**self.stack(rows), **{name: (weights, weights) for name, weights in once.items()}}
        products = {
            name: Product(
                bits=self.bits.get(name, FLOAT), operations=2 * rows * weights * repeats.get(name, 1),
                weights=read * repeats.get(name, 1),
            )
            for name, (weights, read) in used.items()
        }  # fmt: skip
        attention = cache = 0
        c = self.config
        for i in range(c.num_layers):
            seen = prefix if c.is_full(i) else min(prefix, c.sliding_window - 1)
            attention += 4 * rows * (seen + rows) * c.num_heads * c.layer_head_dim(i)
            cache += 2 * 4 * seen * c.layer_kv_heads(i) * c.layer_head_dim(i)
        return Cost(products=products, attention=attention, cache_bytes=cache)

    def encode(self, tokens: int, prefix: int) -> Cost:
        """Keys and values of `tokens` new prefix tokens. Pairs that causality masks are counted: kernels compute them."""
        return self._cost(tokens, prefix, {}, {})

    def denoise(self, canvas: int, prefix: int) -> Cost:
        """One step over `canvas` positions: stack, self-conditioning, head; with exact soft embeddings the table twice."""
        c = self.config
        once = {"self_conditioning": 3 * c.hidden_size * c.intermediate_size, "embedding": c.vocab_size * c.hidden_size}
        return self._cost(canvas, prefix, once, {"embedding": 2 if self.soft == "exact" else 1})

    def decode(self, prefix: int) -> Cost:
        """One autoregressive token: stack and head."""
        return self._cost(1, prefix, {"embedding": self.config.vocab_size * self.config.hidden_size}, {})


def held_bits(quantization: Mapping[str, Any], engine: str) -> dict[str, int]:
    """Bits by tensor class as kernels read them: onnx multiplies 4-bit weights out to 8 bits when a session opens."""
    bits = {str(name): int(value) for name, value in (quantization.get("bits") or {}).items()}
    return {name: 8 if engine == "onnx" and value < 8 else value for name, value in bits.items()}
