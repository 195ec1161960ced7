"""Inputs of an accelerator's graph of all layers of the micro model, and what the model makes of them."""

from __future__ import annotations

from typing import Any

import micro
import numpy as np
import torch

from dgemma.core.config import ModelConfig
from dgemma.model.denoiser import Denoiser, denoise_masks
from dgemma.runtime.engines.accelerator_host import Pass


def stack_feeds(model: Denoiser, n: int, slots: int, length: int) -> tuple[dict[str, Any], list[Any]]:
    """Inputs of a graph of all layers, and what the model makes of them."""
    config: ModelConfig = model.config
    pairs = micro.prefix(model, length, slots)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, n, config.hidden_size)).astype(np.float32))
    masks = denoise_masks(config, n, slots, length)
    with torch.no_grad():
        hidden, new = model.stack(x, torch.arange(n) + length, masks, pairs, "denoise")
    feeds: dict[str, Any] = {"x": x.numpy()}
    for i, (key, value) in enumerate(pairs):
        scalar: Any = model.layers[i].denoise_scalar
        feeds |= {f"scalar_{i}": scalar.numpy(), f"prefix_key_{i}": key.numpy(), f"prefix_value_{i}": value.numpy()}
    for kind, window in (("sliding", config.sliding_window), ("full", None)):
        made = Pass(
            n=n, rows=n, length=length, slots=slots, local=slots, canvas=True, positions=np.arange(n),
            settled=np.zeros(1, np.bool_),
        )  # fmt: skip
        feeds[f"bias_{kind}"] = made.bias(slots, window)
        feeds[f"cos_{kind}"], feeds[f"sin_{kind}"] = made.rotations(getattr(model, f"{kind}_frequencies").numpy())
    return feeds, [hidden.numpy(), *(t.numpy() for pair in new for t in pair)]
