"""The denoiser beside transformers' DiffusionGemmaForBlockDiffusion: the same calls of both, and the worst difference.

A prompt is encoded, then each of BLOCKS canvases is denoised for two steps with self-conditioning and encoded in turn.
"""

from __future__ import annotations

from typing import Any

import checkpoints as hf
import torch
from torch import Tensor

from dgemma.model.denoiser import KV, Denoiser

TOLERANCE = 1e-4
T_MAX, BLOCKS = 0.8, 3


def tokens(seed: int, n: int) -> Tensor:
    return torch.randint(3, hf.VOCAB - 10, (1, n), generator=torch.Generator().manual_seed(seed))


def expected(model: Any, prompt: Tensor) -> dict[str, Tensor]:
    """transformers' answers: encode of the prompt, then two denoising steps of each of BLOCKS canvases."""
    cache, out = hf.hf_cache(model), {}
    ids, start = prompt, 0
    for block in range(BLOCKS):
        positions = torch.arange(start, start + ids.shape[1])[None]
        hidden = model.model.encoder(input_ids=ids, past_key_values=cache, position_ids=positions).last_hidden_state
        out[f"hidden{block}"] = hidden
        for i, layer in enumerate(cache.layers):
            out[f"key{block}.{i}"], out[f"value{block}.{i}"] = layer.keys.transpose(1, 2), layer.values.transpose(1, 2)
        start += ids.shape[1]
        signal = None
        for step in range(2):
            canvas = tokens(100 + 10 * block + step, hf.CANVAS)
            logits = model(
                decoder_input_ids=canvas,
                past_key_values=cache,
                self_conditioning_logits=signal,
                decoder_position_ids=torch.arange(start, start + hf.CANVAS)[None],
            ).logits
            out[f"logits{block}.{step}"], signal = logits, logits / T_MAX
        ids = tokens(200 + block, hf.CANVAS)
    return out


def actual(model: Denoiser, prompt: Tensor, *, denoise_with: Denoiser | None = None, sc: bool = True) -> dict[str, Tensor]:
    """Our answers under the same names; keys and values of all slots."""
    denoiser, out = denoise_with or model, {}
    prefix: list[KV] | None = None
    ids, length = prompt, 0
    for block in range(BLOCKS):
        out[f"hidden{block}"], new = model.encode(ids, prefix, length)
        old = prefix or [(k[:, :0], v[:, :0]) for k, v in new]
        prefix = [(torch.cat([a, c], 1), torch.cat([b, d], 1)) for (a, b), (c, d) in zip(old, new, strict=True)]
        for i, (key, value) in enumerate(prefix):
            out[f"key{block}.{i}"], out[f"value{block}.{i}"] = key, value
        length += ids.shape[1]
        soft = torch.zeros(1, hf.CANVAS, model.config.hidden_size)
        for step in range(2):
            logits = denoiser.denoise(tokens(100 + 10 * block + step, hf.CANVAS), soft, prefix, length)
            out[f"logits{block}.{step}"] = logits
            soft = denoiser.soft_embed(logits / T_MAX) if sc else soft
        ids = tokens(200 + block, hf.CANVAS)
    return out


def error(want: dict[str, Tensor], got: dict[str, Tensor]) -> dict[str, float]:
    """Worst error per kind of output; of logits as a share of their range. NaN comes out as infinity."""
    worst: dict[str, float] = {}
    assert want.keys() == got.keys()
    for name, reference in want.items():
        value = got[name]
        if name.startswith(("key", "value")):
            value = value[:, -reference.shape[1] :]  # the oracle's sliding layers keep the last W−1 tokens
        assert value.shape == reference.shape
        scale = float(reference.max() - reference.min()) if name.startswith("logits") else 1.0
        difference = float((value - reference).abs().max()) / scale
        kind = name.rstrip("0123456789.")
        worst[kind] = max(worst.get(kind, 0.0), difference if difference == difference else float("inf"))
    return worst
