"""Both passes of the denoiser over batches of left-padded rows, for training.

Rope is relative, so padding on the left only shifts a row. B batch, N canvas, P prefix, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.model.denoiser import KV, Denoiser


def _computed(x: Tensor) -> Tensor:
    """The tensor in the type that layers are computed in: float32, or bfloat16 under autocast."""
    return x.bfloat16() if torch.is_autocast_enabled("cpu") else x


def encode_batch(model: Denoiser, tokens: Tensor, valid: Tensor) -> tuple[Tensor, list[KV]]:
    """Causal pass over tokens [B, P], of which those that are `valid` [B, P] are seen."""
    n = tokens.shape[1]
    i = torch.arange(n)
    causal = (i[None, :] <= i[:, None]) & valid[:, None, None, None, :]
    near = causal & (i[None, :] > i[:, None] - model.config.sliding_window)
    return model.stack(_computed(model.embed(tokens)), i, (near, causal), None, "encode")


def denoise_batch(model: Denoiser, canvas: Tensor, soft: Tensor, prefix: list[KV], valid: Tensor) -> Tensor:
    """Logits [B, N, V] of canvas [B, N] and soft embeddings [B, N, D] behind prefixes of P slots, `valid` [B, P]."""
    n, slots = canvas.shape[1], valid.shape[1]
    seen = F.pad(valid, (0, n), value=True)[:, None, None, None, :]
    slot = torch.arange(slots + n)
    recent = seen & (slot > slots - model.config.sliding_window)
    x = model.self_conditioning(_computed(model.embed(canvas)), _computed(soft))
    x, _ = model.stack(x, torch.arange(n) + slots, (recent, seen), prefix, "denoise")
    return model.head(x)
