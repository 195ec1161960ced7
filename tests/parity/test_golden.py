"""Parity with the goldens of the official JAX code, dense and mixture-of-experts (see tests/golden/README.md)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dgemma.model.checkpoint import load
from dgemma.model.denoiser import KV, Denoiser

# Suggested with the goldens; fed signals are the golden ones, so that self-conditioning does not amplify rounding.
ENCODE, LOGITS = 2e-5, 2e-4
CASES = [(name, prompt) for name in ("dense-a", "moe-a") for prompt in ("short", "long")]
Golden = dict[str, npt.NDArray[Any]]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, repo_root: Path) -> tuple[Denoiser, Golden]:
    name, prompt = request.param
    folder = repo_root / "tests" / "golden" / name
    return load(folder).model, dict(np.load(folder / f"{prompt}.npz"))


def ids(golden: Golden, name: str) -> Tensor:
    return torch.from_numpy(golden[name].astype(np.int64))[None]


def worst(got: Tensor, want: npt.NDArray[Any]) -> float:
    assert got.shape[1:] == want.shape
    difference = float((got[0] - torch.from_numpy(want)).abs().max())
    return difference if difference == difference else float("inf")


@torch.no_grad()
def run(model: Denoiser, golden: Golden, *, denoise_window: int | None = None) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Errors against the arrays of this project's semantics, and our logits by name."""
    errors: dict[str, float] = {}
    logits: dict[str, Tensor] = {}
    right = model.config
    other = right if denoise_window is None else dataclasses.replace(right, sliding_window=denoise_window)

    def denoise(canvas: str, soft: Tensor, prefix: list[KV], length: int) -> Tensor:
        model.config = other
        out = model.denoise(ids(golden, canvas), soft, prefix, length)
        model.config = right
        return out

    prompt = ids(golden, "prompt_ids")
    length = prompt.shape[1]
    hidden, prefix = model.encode(prompt)
    errors["enc_hidden"] = worst(hidden, golden["enc_hidden"])
    for i, (key, value) in enumerate(prefix):
        errors[f"enc_k_{i}"], errors[f"enc_v_{i}"] = worst(key, golden[f"enc_k_{i}"]), worst(value, golden[f"enc_v_{i}"])
    zeros = torch.zeros(1, right.canvas_length, right.hidden_size)
    logits["logits1"] = denoise("canvas1_ids", zeros, prefix, length)
    errors["sc_emb_hf"] = worst(model.soft_embed(torch.from_numpy(golden["logits1_hf"])[None] / 0.8), golden["sc_emb_hf"])
    logits["logits2"] = denoise("canvas2_ids", torch.from_numpy(golden["sc_emb_hf"])[None], prefix, length)
    _, new = model.encode(ids(golden, "commit_ids"), prefix, length)
    longer = [(torch.cat([a, c], 1), torch.cat([b, d], 1)) for (a, b), (c, d) in zip(prefix, new, strict=True)]
    logits["block2_logits1"] = denoise("canvas3_ids", zeros, longer, length + right.canvas_length)
    errors |= {name: worst(value, golden[f"{name}_hf"]) for name, value in logits.items()}
    return errors, logits


def test_all_outputs_agree(case: tuple[Denoiser, Golden]) -> None:
    errors, _ = run(*case)
    assert len(errors) == 1 + 2 * case[0].config.num_layers + 1 + 3
    bad = {name: e for name, e in errors.items() if e > (LOGITS if "logits" in name else ENCODE)}
    assert not bad, bad


def test_other_versions_of_the_official_code_are_told_apart(case: tuple[Denoiser, Golden]) -> None:
    """Control: masks of other versions, stored beside ours, are far outside the tolerance where they differ."""
    model, golden = case
    _, logits = run(model, golden)
    compared = 0
    for name in ("logits1", "logits2"):
        for version in ("release", "head"):
            if (key := f"{name}_{version}") in golden:
                compared += 1
                assert worst(logits[name], golden[key]) > 100 * LOGITS, key
    assert compared >= (4 if golden["prompt_ids"].size > model.config.sliding_window else 2)


def test_w_for_w_minus_one_is_the_release_version(case: tuple[Denoiser, Golden]) -> None:
    """Control: one more visible token fails our goldens by much, and reproduces the released code's own."""
    model, golden = case
    if golden["prompt_ids"].size < model.config.sliding_window:
        errors, _ = run(model, golden, denoise_window=3)  # a window that cuts the short prompt, which W itself does not
        assert errors["logits1"] > 100 * LOGITS
        return
    errors, logits = run(model, golden, denoise_window=model.config.sliding_window + 1)
    assert errors["logits1"] > 100 * LOGITS
    assert worst(logits["logits1"], golden["logits1_release"]) <= LOGITS


def test_a_swapped_norm_fails(case: tuple[Denoiser, Golden]) -> None:
    model, golden = case
    layer = model.layers[0]
    layer.input_layernorm, layer.pre_feedforward_layernorm = layer.pre_feedforward_layernorm, layer.input_layernorm
    errors, _ = run(model, golden)
    assert errors["enc_hidden"] > 100 * ENCODE
    assert errors["logits1"] > 100 * LOGITS
