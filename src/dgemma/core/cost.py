"""The cost model: operations and bytes of a denoising step, of encoding and of a token, and resident memory, from shapes alone.

`dgemma plan`, `bench`, `export --dry-run`, `reference compile` and the runtime's check of free memory all count here.

Operations leave norms, rotations, softmax and the sampler out, whose values are counted beside them; an activation's bytes
are left out too, for caches hold them. N canvas, C tokens of a chunk, S prefix, D hidden, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dgemma.core.config import ModelConfig
from dgemma.core.sampler import EXACT
from dgemma.core.shapes import SLOT_STEP

FLOAT = 32
_TILE = 8_192  # ids whose logits the head holds together, three times: logits, weights, sums


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
    """Of one engine call.

    Args:
        attention: operations of scores and weighted values.
        cache_bytes: float32 keys and values that are read.
        functions: values that go through exp or tanh: scores, gates, logits.
        values: values that norms, residuals and the rounding of a product's inputs write.
    """

    products: dict[str, Product]
    attention: int
    cache_bytes: int
    functions: int
    values: int

    @property
    def operations(self) -> int:
        return sum(p.operations for p in self.products.values()) + self.attention

    @property
    def weight_bytes(self) -> int:
        return sum(p.bytes for p in self.products.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "operations": self.operations, "weight_bytes": self.weight_bytes}


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """A model's shape, the bits in which kernels hold each tensor class, and what a program computes beyond what is needed.

    Args:
        bits: tensor class → bits, as recipes name the classes; a class that is missing is float32.
        soft: soft embeddings are a product of the whole distribution with the table ("exact"), or gathered rows.
        every_expert: all experts are computed, not only those that the router chooses.
        slot_step: every layer takes all slots of the prefix, a multiple of so many, and joins them with the new rows;
            None counts what attention needs: sliding layers see W−1 slots, and nothing is joined.
    """

    config: ModelConfig
    bits: Mapping[str, int]
    soft: str = EXACT
    every_expert: bool = False
    slot_step: int | None = None

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
            used = c.num_experts if self.every_expert else c.top_k_experts
            touched = min(c.num_experts, rows * used)  # at most
            found |= {"router": (router, router), "experts": (used * expert, touched * expert)}
        return found

    def encode(self, tokens: int, prefix: int) -> Cost:
        """Keys and values of `tokens` new prefix tokens. Pairs that causality masks are counted: kernels compute them."""
        return self._cost(tokens, prefix, {}, {})

    def denoise(self, canvas: int, prefix: int) -> Cost:
        """One step over `canvas` positions: stack, self-conditioning, head; with exact soft embeddings the table twice."""
        once = {"self_conditioning": self._conditioning, "embedding": self._table}
        return self._cost(canvas, prefix, once, {"embedding": 2 if self.soft == EXACT else 1})

    def decode(self, prefix: int) -> Cost:
        """One autoregressive token: stack and head."""
        return self._cost(1, prefix, {"embedding": self._table}, {})

    def weight_bytes(self) -> int:
        """Bytes of all matrices, each held once."""
        config = self.config
        held = {name: count for name, (_, count) in self.stack(config.num_experts or 1).items()}
        held |= {"self_conditioning": self._conditioning, "embedding": self._table}
        return sum(count * self.bits.get(name, FLOAT) // 8 for name, count in held.items())

    def resident_bytes(self, tokens: int, rows: int) -> int:
        """Least memory of running: weights once, keys and values of `tokens`, and what a step over `rows` positions needs."""
        return self.weight_bytes() + prefix_bytes(self.config, tokens) + step_bytes(self.config, rows)

    @property
    def _table(self) -> int:
        return self.config.vocab_size * self.config.hidden_size

    @property
    def _conditioning(self) -> int:
        return 3 * self.config.hidden_size * self.config.intermediate_size

    def _cost(self, rows: int, prefix: int, once: Mapping[str, int], repeats: Mapping[str, int]) -> Cost:
        """The stack over `rows` rows, and the matrices `once`, each multiplied `repeats` times (default 1)."""
        used = {**self.stack(rows), **{name: (weights, weights) for name, weights in once.items()}}
        products = {
            name: Product(
                bits=self.bits.get(name, FLOAT),
                operations=2 * rows * weights * repeats.get(name, 1),
                weights=read * repeats.get(name, 1),
            )
            for name, (weights, read) in used.items()
        }
        attention = cache = scores = 0
        c = self.config
        for i in range(c.num_layers):
            seen = self._seen(i, prefix)
            attention += 4 * rows * (seen + rows) * c.num_heads * c.layer_head_dim(i)
            cache += 2 * 4 * (seen + (rows if self.slot_step else 0)) * c.layer_kv_heads(i) * c.layer_head_dim(i)
            scores += rows * (seen + rows) * c.num_heads
        gated = c.num_layers + ("self_conditioning" in once)
        logits = ("embedding" in once) + ("self_conditioning" in once)  # the softcap's tanh; the sampler's exp
        functions = scores + rows * (gated * c.intermediate_size + logits * c.vocab_size)
        return Cost(products=products, attention=attention, cache_bytes=cache, functions=functions, values=self._values(rows))

    def _seen(self, layer: int, prefix: int) -> int:
        """Slots of the prefix that a layer takes."""
        if self.slot_step:
            return -(-max(1, prefix) // self.slot_step) * self.slot_step
        return prefix if self.config.is_full(layer) else min(prefix, self.config.sliding_window - 1)

    def _values(self, rows: int) -> int:
        """Of four norms and two residual sums a layer; inputs of integer products are written once more."""
        c = self.config
        heads = sum(c.num_heads * c.layer_head_dim(i) for i in range(c.num_layers))
        inputs = c.num_layers * (2 * c.hidden_size + c.intermediate_size) + heads
        quantized = self.bits.get("attention", FLOAT) < FLOAT
        return rows * (6 * c.num_layers * c.hidden_size + (inputs if quantized else 0))


def as_run(config: ModelConfig, bits: Mapping[str, int], soft: str = EXACT) -> CostModel:
    """What the exported graphs compute today: every float expert, and all slots of the prefix in every layer."""
    every = bits.get("experts", FLOAT) == FLOAT
    return CostModel(config=config, bits=bits, soft=soft, every_expert=every, slot_step=SLOT_STEP)


def held_bits(quantization: Mapping[str, Any], engine: str) -> dict[str, int]:
    """Bits by tensor class as kernels read them: onnx multiplies 4-bit weights but experts out to 8 on opening."""
    bits = {str(name): int(value) for name, value in (quantization.get("bits") or {}).items()}
    return {name: 8 if engine == "onnx" and value < 8 and name != "experts" else value for name, value in bits.items()}


def prefix_values(config: ModelConfig, tokens: int) -> int:
    """Keys and values of `tokens` prefix tokens in all layers, as a number of values."""
    return 2 * tokens * sum(config.layer_kv_heads(i) * config.layer_head_dim(i) for i in range(config.num_layers))


def prefix_bytes(config: ModelConfig, tokens: int) -> int:
    """The same in float32, as the runtime holds them."""
    return 4 * prefix_values(config, tokens)


def step_bytes(config: ModelConfig, rows: int) -> int:
    """Float32 activations of a denoising step over `rows` positions, and a tile of logits."""
    tile = 3 * min(config.vocab_size, _TILE)
    return 4 * rows * (6 * config.hidden_size + 2 * config.intermediate_size + tile)
