"""A guided denoising step (classifier-free guidance: Ho and Salimans, arXiv 2207.12598).

N canvas, V vocabulary. It knows nothing of samplers.
"""

from __future__ import annotations

from jax import Array

from dgemma.core.config import ModelConfig
from dgemma.reference import denoiser
from dgemma.reference.weights import Weights

Pass = tuple[Array, denoiser.Prefix, Array]


def denoise(weights: Weights, config: ModelConfig, canvas: Array, passes: tuple[Pass, Pass], scale: Array) -> Array:
    """Two passes over a canvas, whose logits become l₋ + scale · (l − l₋) before the softcap.

    Args:
        canvas: as in `denoiser.denoise`.
        passes: soft, prefix and length, as in `denoiser.denoise`, of the answer's pass and of the one to move
            away from.
        scale: float32 scalar.
    Returns:
        as `denoiser.denoise`'s logits.
    """
    hidden = [denoiser.denoise(weights, config, canvas, *one, taps=True)[1]["hidden"] for one in passes]
    own, other = (denoiser.product("nd,vd->nv", x, weights["embed"]) for x in hidden)
    return denoiser.softcapped(config, other + scale * (own - other))
