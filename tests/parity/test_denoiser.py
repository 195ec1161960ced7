"""float32 parity of the denoiser with transformers' DiffusionGemmaForBlockDiffusion (eager attention, DynamicCache).

Checkpoints are written by `save_pretrained` and read by our loader. Tolerance: 1e-4 of the logit range; keys, values and
hidden states, which norms keep near 1, within 1e-4. Every control changes one thing and must fail.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints as hf
import pytest
import torch
from torch import Tensor, nn

from dgemma.model.checkpoint import load
from dgemma.model.denoiser import KV, Denoiser, rope_frequencies

TOLERANCE = 1e-4
SHORT, LONG = 5, 21  # the window is 8
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


LENGTHS = (1, SHORT, hf.WINDOW - 1, hf.WINDOW, LONG)


def test_routers_are_far_from_ties(pair: tuple[Path, Any]) -> None:
    """Rounding flips an expert where the k-th and (k+1)-th probability meet; these inputs stay clear of that."""
    gaps: list[float] = []

    def note(module: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:
        if output[0].shape[-1] > 1:
            top = output[0].sort(-1, descending=True).values
            gaps.append(float((top[:, 1] - top[:, 2]).min()))

    oracle = pair[1]
    handles = [m.register_forward_hook(note) for name, m in oracle.named_modules() if name.endswith(".router")]
    for length in LENGTHS:
        expected(oracle, tokens(1, length))
    for handle in handles:
        handle.remove()
    assert handles
    assert min(gaps, default=1.0) > 2e-5


@pytest.mark.parametrize("length", LENGTHS)
def test_encode_and_denoise_agree(pair: tuple[Path, Any], length: int) -> None:
    folder, oracle = pair
    worst = error(expected(oracle, tokens(1, length)), actual(load(folder).model, tokens(1, length)))
    assert max(worst.values()) <= TOLERANCE, worst


def test_chunked_prefill_and_spare_slots_change_nothing(pair: tuple[Path, Any]) -> None:
    """Slots beyond the valid length, filled with rubbish, and encoding in chunks, as the runtime does both."""
    model = load(pair[0]).model
    prompt = tokens(1, LONG)
    whole_hidden, whole = model.encode(prompt)
    _, first = model.encode(prompt[:, :13])
    spare = [(torch.cat([k, k.new_full((1, 6, *k.shape[2:]), 50.0)], 1), torch.cat([v, v[:, :6] * 9], 1)) for k, v in first]
    hidden, second = model.encode(prompt[:, 13:], spare, 13)
    assert (hidden - whole_hidden[:, 13:]).abs().max() < 2e-5
    for (k, v), (wk, wv) in zip(second, whole, strict=True):
        assert max(float((k - wk[:, 13:]).abs().max()), float((v - wv[:, 13:]).abs().max())) < 2e-5


def swapped_norm(model: Denoiser) -> None:
    layer = model.layers[2]
    layer.input_layernorm, layer.post_attention_layernorm = layer.post_attention_layernorm, layer.input_layernorm


def swapped_qk_norm(model: Denoiser) -> None:
    attention = model.layers[5].self_attn
    attention.q_norm.weight.data = attention.q_norm.weight.data.flip(0)


def sliding_theta(model: Denoiser) -> None:
    model.sliding_frequencies = rope_frequencies(dataclasses.replace(model.config, sliding_rope_theta=1e6), full=False)


def full_theta(model: Denoiser) -> None:
    model.full_frequencies = rope_frequencies(dataclasses.replace(model.config, full_rope_theta=1e4), full=True)


def swapped_scalars(model: Denoiser) -> None:
    for layer in model.layers:
        layer.encode_scalar, layer.denoise_scalar = layer.denoise_scalar, layer.encode_scalar


@pytest.mark.parametrize("damage", [swapped_norm, swapped_qk_norm, sliding_theta, full_theta, swapped_scalars])
def test_a_damaged_model_fails(pair: tuple[Path, Any], damage: Callable[[Denoiser], None]) -> None:
    folder, oracle = pair
    model = load(folder).model
    damage(model)
    worst = error(expected(oracle, tokens(1, LONG)), actual(model, tokens(1, LONG)))
    assert worst["logits"] > 10 * TOLERANCE, worst


def test_without_self_conditioning_it_fails(pair: tuple[Path, Any]) -> None:
    folder, oracle = pair
    worst = error(expected(oracle, tokens(1, LONG)), actual(load(folder).model, tokens(1, LONG), sc=False))
    assert worst["logits"] > 10 * TOLERANCE, worst


@pytest.mark.parametrize("change", [1, -1])
def test_another_window_fails(pair: tuple[Path, Any], change: int) -> None:
    """W for W−1 in denoising, with a prefix that was encoded rightly."""
    folder, oracle = pair
    other = load(folder).model
    other.config = dataclasses.replace(other.config, sliding_window=hf.WINDOW + change)
    worst = error(expected(oracle, tokens(1, LONG)), actual(load(folder).model, tokens(1, LONG), denoise_with=other))
    assert max(worst["hidden"], worst["key"], worst["value"]) <= TOLERANCE < worst["logits"] / 10, worst
