"""What transformers writes we read, and what we write transformers reads: names, values and configs."""

from __future__ import annotations

from pathlib import Path

import checkpoints as hf
import pytest
import torch
from safetensors.torch import load_file
from transformers.models.diffusion_gemma.generation_diffusion_gemma import DiffusionGemmaGenerationConfig
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaForBlockDiffusion

from dgemma.core.errors import CheckpointError
from dgemma.core.sampler import SamplerConfig
from dgemma.model.checkpoint import load, random_weights, read_config, save


@pytest.mark.parametrize("shards", ["1GB", "60KB"])
def test_save_pretrained_is_read(tmp_path: Path, shards: str) -> None:
    model = hf.hf_model(experts=4)
    hf.save(model, tmp_path, shards=shards)
    found = load(tmp_path)
    assert (len(found.stored.sources.files) > 1) == (shards == "60KB")
    names = {name for file in found.stored.sources.files for name in load_file(tmp_path / file)}
    assert found.skipped == sum("vision" in name for name in names) > 10
    assert len(names) == found.skipped + len(found.model.state_dict())
    text = model.config.text_config
    expected = {
        "hidden_size": 64, "global_head_dim": 32, "global_num_kv_heads": 1, "head_dim": 16, "num_kv_heads": 2,
        "num_experts": 4, "top_k_experts": 2, "layer_types": tuple(text.layer_types), "canvas_length": hf.CANVAS,
        "max_position_embeddings": 512, "eos_token_ids": (1,), "vocab_size": hf.VOCAB,
    }  # fmt: skip
    assert {name: getattr(found.config, name) for name in expected} == expected
    assert found.sampler == SamplerConfig()  # a fresh generation config holds nulls
    layer, own = model.model.decoder.layers[3], found.model.layers[3]
    assert torch.equal(own.self_attn.q_proj.weight, layer.self_attn.q_proj.weight)
    assert torch.equal(own.denoise_scalar, layer.layer_scalar)
    assert torch.equal(own.encode_scalar, model.model.encoder.language_model.layers[3].layer_scalar)


def test_generation_configs_are_read(tmp_path: Path) -> None:
    model = hf.hf_model(experts=4)
    model.generation_config = hf.hf_generation(steps=7, bound=0.25, confidence=0.125, stability=3, eos=[4, 5])
    config, sampler = read_config(hf.save(model, tmp_path))
    assert sampler == SamplerConfig(steps=7, entropy_bound=0.25, confidence_threshold=0.125, stability_threshold=3)
    assert config.eos_token_ids == (4, 5)


def test_transformers_defaults_are_ours() -> None:
    defaults = DiffusionGemmaGenerationConfig._get_default_generation_params()
    ours = SamplerConfig()
    assert defaults.pop("sampler_config").entropy_bound == ours.entropy_bound
    assert defaults.pop("max_denoising_steps") == ours.steps
    del defaults["max_new_tokens"]
    assert len(defaults) == 4
    assert defaults == {name: getattr(ours, name) for name in defaults}


def test_untied_checkpoints_are_refused(tmp_path: Path) -> None:
    """transformers writes second copies of shared weights only when nothing is tied; then they need not be equal."""
    config = hf.hf_config(experts=4)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    DiffusionGemmaForBlockDiffusion(config).save_pretrained(tmp_path)
    assert "lm_head.weight" in load_file(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config\.json: tie_word_embeddings is False"):
        load(tmp_path)


@pytest.mark.parametrize("experts", [None, 4])
def test_transformers_reads_what_we_write(tmp_path: Path, experts: int | None) -> None:
    eps = 1e-6 if experts else 1e-12  # the dense oracle norms twice: a small epsilon makes it exact
    config, _ = read_config(hf.save(hf.hf_model(experts=experts, rms_norm_eps=eps), tmp_path / "hf"))
    model = random_weights(config, 3)
    save(tmp_path / "ours", model, SamplerConfig(steps=5))
    theirs = hf.hf_from_folder(tmp_path / "ours")
    prompt, canvas = torch.arange(5, 25)[None], torch.arange(50, 50 + hf.CANVAS)[None]
    _, prefix = model.encode(prompt)
    ours = model.denoise(canvas, torch.zeros(1, hf.CANVAS, config.hidden_size), prefix, prompt.shape[1])
    with torch.no_grad():
        logits = theirs(input_ids=prompt, past_key_values=hf.hf_cache(theirs), decoder_input_ids=canvas).logits
    assert (logits - ours).abs().max() <= 1e-4 * (logits.max() - logits.min())
    if experts:
        assert theirs.generation_config.max_denoising_steps == 5
