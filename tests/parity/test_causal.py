"""Causal checkpoints: the encoder computes what transformers' causal model does, and each side reads what the other writes."""

from __future__ import annotations

from pathlib import Path

import micro
import pytest
import torch
from transformers.models.gemma4.modeling_gemma4 import Gemma4ForCausalLM

from dgemma.core.config import ModelConfig
from dgemma.model import causal
from dgemma.model.denoiser import Denoiser

IDS = torch.tensor([micro.prompt(20)])


@torch.no_grad()
def said(model: Denoiser) -> torch.Tensor:
    return model.head(model.encode(IDS)[0])


@pytest.mark.parametrize("config", [micro.CONFIG, micro.MOE_CONFIG], ids=["dense", "moe"])
def test_transformers_computes_the_same_and_what_it_writes_is_read(config: ModelConfig, tmp_path: Path) -> None:
    causal.save_causal(tmp_path / "ours", micro.model(config))
    theirs = Gemma4ForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    with torch.no_grad():
        logits = theirs(input_ids=IDS).logits
        ours = said(micro.model(config))
        torch.testing.assert_close(logits, ours, rtol=1e-4, atol=1e-3)
        theirs.model.layers[0].layer_scalar.fill_(0.5)
        changed = theirs(input_ids=IDS).logits
    assert (changed - ours).abs().max() > 0.1
    theirs.save_pretrained(tmp_path / "theirs")
    read = causal.load_causal(tmp_path / "theirs", 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(said(read), changed, rtol=1e-4, atol=1e-3)
    assert float(read.layers[0].denoise_scalar) == 0.5
    assert read.config.canvas_length == 8
