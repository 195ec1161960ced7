"""Model shapes: one frozen dataclass, read from a Hugging Face `config.json` or from a preset name.

It knows nothing of weights, files other than config dictionaries, or of sampling (see `sampler.py`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from dgemma.core.errors import CheckpointError, UsageError

LayerType = Literal["sliding_attention", "full_attention"]
SLIDING: LayerType = "sliding_attention"
FULL: LayerType = "full_attention"
MOST_LAYERS = 1024


def layer_pattern(num_layers: int) -> tuple[LayerType, ...]:
    """Five sliding layers to one full layer; the last one is always full (transformers `DiffusionGemmaTextConfig`)."""
    return tuple(FULL if (i + 1) % 6 == 0 or i == num_layers - 1 else SLIDING for i in range(num_layers))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of one denoiser. Sizes are in elements, lengths in tokens; names follow transformers' `diffusion_gemma`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    global_num_kv_heads: int
    global_head_dim: int
    sliding_window: int
    canvas_length: int = 256
    layer_types: tuple[LayerType, ...] = ()
    num_experts: int | None = None
    top_k_experts: int | None = None
    moe_intermediate_size: int | None = None
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float = 30.0
    sliding_rope_theta: float = 1e4
    full_rope_theta: float = 1e6
    full_partial_rotary_factor: float = 0.25
    max_position_embeddings: int = 131_072
    pad_token_id: int = 0
    bos_token_id: int = 2
    eos_token_ids: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
            "global_num_kv_heads", "global_head_dim", "sliding_window", "canvas_length", "max_position_embeddings",
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CheckpointError(f"config value {name}={value!r} must be a positive integer")
        if self.num_layers > MOST_LAYERS:
            raise CheckpointError(f"config value num_layers={self.num_layers} must be at most {MOST_LAYERS}")
        if not self.layer_types:
            object.__setattr__(self, "layer_types", layer_pattern(self.num_layers))
        if len(self.layer_types) != self.num_layers or set(self.layer_types) - {SLIDING, FULL}:
            raise CheckpointError(f"layer_types must name {self.num_layers} layers as {SLIDING} or {FULL}")
        if self.layer_types[-1] != FULL:
            raise CheckpointError(f"the last layer must be {FULL}, not {self.layer_types[-1]}")
        if self.num_heads % self.num_kv_heads or self.num_heads % self.global_num_kv_heads:
            raise CheckpointError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads} and "
                f"global_num_kv_heads={self.global_num_kv_heads}"
            )
        if self.head_dim % 2 or self.global_head_dim % 2:
            heads = f"head_dim={self.head_dim}, global_head_dim={self.global_head_dim}"
            raise CheckpointError(f"head dimensions must be even: {heads}")
        if self.sliding_window < 2:
            raise CheckpointError(f"sliding_window={self.sliding_window} must be at least 2, so that a canvas sees some prefix")
        experts = (self.num_experts, self.top_k_experts, self.moe_intermediate_size)
        if any(e is None for e in experts) and any(e is not None for e in experts):
            raise CheckpointError("num_experts, top_k_experts and moe_intermediate_size must be given together or be null")
        if self.num_experts is not None and not 1 <= (self.top_k_experts or 0) <= self.num_experts:
            raise CheckpointError(f"top_k_experts={self.top_k_experts} must be between 1 and num_experts={self.num_experts}")
        if self.final_logit_softcapping <= 0 or self.rms_norm_eps <= 0:
            cap, epsilon = self.final_logit_softcapping, self.rms_norm_eps
            raise CheckpointError(f"final_logit_softcapping={cap} and rms_norm_eps={epsilon} must be positive")
        ids = (self.pad_token_id, self.bos_token_id, *self.eos_token_ids)
        if any(not 0 <= i < self.vocab_size for i in ids):
            raise CheckpointError(f"special token ids {ids} must lie in the vocabulary of {self.vocab_size}")

    @property
    def is_moe(self) -> bool:
        return self.num_experts is not None

    def is_full(self, layer: int) -> bool:
        return self.layer_types[layer] == FULL

    def layer_head_dim(self, layer: int) -> int:
        return self.global_head_dim if self.is_full(layer) else self.head_dim

    def layer_kv_heads(self, layer: int) -> int:
        return self.global_num_kv_heads if self.is_full(layer) else self.num_kv_heads

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for the bundle's manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`; raises CheckpointError on a missing or unknown key."""
        names = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(values) - names:
            raise CheckpointError(f"unknown model config key {sorted(unknown)[0]!r}")
        try:
            plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**plain)
        except TypeError as error:
            raise CheckpointError(f"model config is incomplete: {error}") from None


_COMMON: dict[str, Any] = {"vocab_size": 262_144, "eos_token_ids": (1, 106), "pad_token_id": 0, "bos_token_id": 2}

PRESETS: dict[str, ModelConfig] = {
    "2b": ModelConfig(
        **_COMMON, hidden_size=2304, intermediate_size=9216, num_layers=26, num_heads=8, num_kv_heads=4, head_dim=256,
        global_num_kv_heads=2, global_head_dim=512, sliding_window=512,
    ),
    "9b": ModelConfig(
        **_COMMON, hidden_size=3584, intermediate_size=14336, num_layers=42, num_heads=16, num_kv_heads=8, head_dim=256,
        global_num_kv_heads=2, global_head_dim=512, sliding_window=1024,
    ),
    "26b-a4b": ModelConfig(
        **_COMMON, hidden_size=2816, intermediate_size=2112, num_layers=30, num_heads=16, num_kv_heads=8, head_dim=256,
        global_num_kv_heads=2, global_head_dim=512, sliding_window=1024, num_experts=128, top_k_experts=8,
        moe_intermediate_size=704,
    ),
}  # fmt: skip


def check_random_weights(seed: int | None) -> None:
    """Check the seed of `--random-weights`, if there is one; raises UsageError."""
    if seed is not None and not 0 <= seed < 1 << 64:
        raise UsageError(f"--random-weights {seed} must be between 0 and 2^64-1")
