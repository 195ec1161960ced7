"""Name and shape of every parameter of a model, from its config alone, so that sizes can be counted where torch is not.

D hidden, F feed-forward width, V vocabulary, H heads, K kv heads, d head dim, E experts, W width of an expert.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from dgemma.core.config import ModelConfig

Shape = tuple[int, ...]
SLOT_STEP = 64  # the runtime hands prefixes out in multiples of this many slots, so that shapes repeat


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The names and shapes of `model.denoiser.Denoiser(config).named_parameters()`."""
    hidden = config.hidden_size
    shapes: dict[str, Shape] = {"embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in _layer(config, layer)}
    shapes |= {"norm.weight": (hidden,), "self_conditioning.pre_norm.weight": (hidden,)}
    return shapes | {f"self_conditioning.{name}": shape for name, shape in _mlp(hidden, config.intermediate_size)}


def parameter_count(config: ModelConfig) -> int:
    """Values of all parameters; the table, which is tied, once."""
    return sum(map(math.prod, parameter_shapes(config).values()))


def _mlp(hidden: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield "gate_proj.weight", (width, hidden)
    yield "up_proj.weight", (width, hidden)
    yield "down_proj.weight", (hidden, width)


def _layer(config: ModelConfig, layer: int) -> Iterator[tuple[str, Shape]]:
    hidden, dim, heads = config.hidden_size, config.layer_head_dim(layer), config.num_heads
    keys = (config.layer_kv_heads(layer) * dim, hidden)
    yield "self_attn.q_proj.weight", (heads * dim, hidden)
    yield "self_attn.k_proj.weight", keys
    if not config.is_full(layer):
        yield "self_attn.v_proj.weight", keys
    yield "self_attn.o_proj.weight", (hidden, heads * dim)
    yield "self_attn.q_norm.weight", (dim,)
    yield "self_attn.k_norm.weight", (dim,)
    for name, shape in _mlp(hidden, config.intermediate_size):
        yield f"mlp.{name}", shape
    norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
    if config.num_experts is not None and config.moe_intermediate_size is not None:
        experts, width = config.num_experts, config.moe_intermediate_size
        yield "router.proj.weight", (experts, hidden)
        yield "router.scale", (hidden,)
        yield "router.per_expert_scale", (experts,)
        yield "experts.gate_up_proj", (experts, 2 * width, hidden)
        yield "experts.down_proj", (experts, hidden, width)
        for name in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"):
            yield f"{name}.weight", (hidden,)
    for name in norms:
        yield f"{name}_layernorm.weight", (hidden,)
