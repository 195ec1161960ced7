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
from denoiser_parity import TOLERANCE, actual, error, expected, tokens
from torch import Tensor, nn

from dgemma.model.checkpoint import load
from dgemma.model.denoiser import Denoiser, rope_frequencies

SHORT, LONG = 5, 21  # the window is 8
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
