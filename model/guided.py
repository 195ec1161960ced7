"""The logits of a guided step in PyTorch: the naive twin of `runtime/guide.py` and the graph `denoise_guided`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgemma.core.guidance import Guidance
from dgemma.model.denoiser import KV, Denoiser


def guided_logits(
    model: Denoiser,
    guidance: Guidance,
    step: int,
    canvas: Tensor,
    soft: Tensor,
    prefix: list[KV] | None,
    negative: list[KV] | None,
    accepted: Tensor | None,
) -> Tensor:
    """Softcapped logits [1, N, V] of step number `step` of a canvas, from 1.

    Args:
        canvas, soft: [1, N] and [1, N, D], as `Denoiser.denoise` takes them.
        prefix, negative: keys and values behind which both passes run; without a negative prompt, both are the same.
        accepted: [1, N] by the step before; None in the first.
    """
    hidden = model.denoise_hidden(canvas, soft, prefix, _length(prefix))
    if not guidance.guides(step) or (guidance.negative is None and accepted is None):
        return model.head(hidden)
    if guidance.negative is not None:
        other = model.denoise_hidden(canvas, soft, negative, _length(negative))
    else:
        known = torch.zeros_like(soft) if accepted is None else torch.where(accepted[..., None], soft, torch.zeros_like(soft))
        other = model.denoise_hidden(canvas, known, prefix, _length(prefix))
    cap = model.config.final_logit_softcapping
    before, behind = (model.embed_tokens.logits(x).float() for x in (hidden, other))  # whole, unlike the graph
    return torch.tanh((behind + guidance.scale * (before - behind)) / cap) * cap


def _length(prefix: list[KV] | None) -> int:
    return 0 if prefix is None else prefix[0][0].shape[1]
