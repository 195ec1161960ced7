"""Where arrays live on several chips: one mesh axis, over heads, feed-forward width, vocabulary and experts.

XLA's partitioner does the rest; a dimension that the chips do not divide is replicated. It knows nothing of topologies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dgemma.core.config import ModelConfig
from dgemma.reference.weights import Weights

AXIS = "model"


def mesh(devices: Sequence[Any]) -> Mesh:
    """All devices in one row."""
    return Mesh(np.array(devices), (AXIS,))


def weights(config: ModelConfig, tree: Weights, on: Mesh) -> Any:
    """A NamedSharding for every array of `weights.shapes`."""
    n = on.size

    def layer_axis(name: str, kv_heads: int) -> tuple[int, int] | None:
        """The axis of a stacked tensor that is split, and how many indivisible pieces it has."""
        return {
            "q_proj": (1, config.num_heads),
            "o_proj": (2, config.num_heads),
            "k_proj": (1, kv_heads),
            "v_proj": (1, kv_heads),
            "gate_proj": (1, config.intermediate_size),
            "up_proj": (1, config.intermediate_size),
            "down_proj": (2, config.intermediate_size),
            "expert_gate_up": (1, config.num_experts or 1),
            "expert_down": (1, config.num_experts or 1),
        }.get(name)

    def place(found: tuple[int, int] | None) -> NamedSharding:
        if found is None or found[1] % n:
            return NamedSharding(on, PartitionSpec())
        return NamedSharding(on, PartitionSpec(*[None] * found[0], AXIS))

    placed: Weights = {"embed": place((0, config.vocab_size)), "norm": place(None)}
    for kind, kv_heads in (("sliding", config.num_kv_heads), ("full", config.global_num_kv_heads)):
        placed[kind] = {name: place(layer_axis(name, kv_heads)) for name in tree[kind]}
    conditioning = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}
    placed["self_conditioning"] = {
        name: place((conditioning[name], config.intermediate_size) if name in conditioning else None)
        for name in tree["self_conditioning"]
    }
    return placed


def prefix(config: ModelConfig, tree: Any, on: Mesh) -> Any:
    """A NamedSharding for every array of `texts.prefix_shapes`, over kv heads where the chips divide them."""
    heads = {"sliding": config.num_kv_heads, "full": config.global_num_kv_heads}

    def place(kind: str) -> NamedSharding:
        return NamedSharding(on, PartitionSpec(None, None, AXIS) if heads[kind] % on.size == 0 else PartitionSpec())

    return {kind: jax.tree.map(lambda _, kind=kind: place(kind), pair) for kind, pair in tree.items()}


def replicated(on: Mesh) -> NamedSharding:
    """A whole copy on every chip."""
    return NamedSharding(on, PartitionSpec())
