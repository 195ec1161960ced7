"""A micro model, its checkpoint and its noise: one sliding and one full layer, peaked random weights, two seconds to lower.

The vocabulary is no multiple of the sampler's blocks, and the window is shorter than the prompts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.noise import canvas_words, step_words, token_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import KV, Denoiser
from dgemma.model.generate import extend

VOCAB, N, T, WINDOW, CONTEXT = 300, 16, 4, 8, 128
CONFIG = ModelConfig(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=16,
    global_num_kv_heads=1, global_head_dim=32, sliding_window=WINDOW, canvas_length=N, max_position_embeddings=CONTEXT,
)  # fmt: skip
MOE_CONFIG = replace(CONFIG, num_experts=4, top_k_experts=2, moe_intermediate_size=16)
POLICY = SamplerConfig(steps=T, entropy_bound=4.0)  # a bound that accepts some positions and not all


def model(config: ModelConfig = CONFIG, seed: int = 0) -> Denoiser:
    """Random weights with large gains, so that distributions are peaked; norms and scalars are random too."""
    made = checkpoint.random_weights(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if tensor.ndim < 2:
                tensor.uniform_(0.7, 1.3, generator=generator)
            else:
                tensor.mul_(50.0 if name == "embed_tokens.weight" else 8.0)
    return made


def save(folder: Path, config: ModelConfig = CONFIG, policy: SamplerConfig = POLICY, seed: int = 0) -> Path:
    """The model as a checkpoint without a tokenizer."""
    checkpoint.save(folder, model(config, seed), policy)
    return folder


def prompt(length: int) -> list[int]:
    return [(7 + 13 * i) % VOCAB for i in range(length)]


@torch.no_grad()
def prefix(denoiser: Denoiser, length: int, slots: int) -> list[KV]:
    """Keys and values of a prompt in caches of `slots`; what lies beyond its length is garbage that must not be read."""
    encoded = extend(denoiser, None, prompt(length))
    generator = torch.Generator().manual_seed(1)
    caches = []
    for layer in range(denoiser.config.num_layers):
        shape = (1, slots, denoiser.config.layer_kv_heads(layer), denoiser.config.layer_head_dim(layer))
        pair = [torch.randn(shape, generator=generator) * 9 for _ in range(2)]
        for cache, filled in zip(pair, encoded[layer] if encoded else (), strict=False):
            cache[:, :length] = filled
        caches.append((pair[0], pair[1]))
    return caches


def noise(seed: int, steps: int = T) -> tuple[Tensor, Tensor]:
    """Initial canvas [1, N] and words [T, 2, N], int64."""
    words = torch.stack([torch.from_numpy(step_words(seed, 0, i + 1, N).astype("int64")) for i in range(steps)])
    return torch.from_numpy(token_from_word(canvas_words(seed, 0, N), VOCAB))[None], words
