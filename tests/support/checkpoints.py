"""Small random checkpoints made by transformers itself, and transformers models of any checkpoint folder.

transformers builds no dense model. With one expert, `post_feedforward_layernorm_2` = 0 and `_1` = 1 its layer computes
the dense function up to the epsilon of a norm applied twice; that is the oracle for dense checkpoints here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DynamicCache
from transformers.models.diffusion_gemma.configuration_diffusion_gemma import DiffusionGemmaConfig
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    DiffusionGemmaGenerationConfig,
    EntropyBoundSamplerConfig,
)
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaForBlockDiffusion

WINDOW, CANVAS, VOCAB = 8, 16, 300
_EXPERT_PARTS = re.compile(r"\.(router|experts|post_feedforward_layernorm_[12]|pre_feedforward_layernorm_2)\.")


def hf_config(*, experts: int | None = None, **text: Any) -> DiffusionGemmaConfig:
    """A six-layer shape with full layers that differ in head size and kv heads; dense when `experts` is None."""
    shape: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "num_global_key_value_heads": 1,
        "sliding_window": WINDOW, "max_position_embeddings": 512, "num_experts": experts or 1,
        "top_k_experts": 2 if experts else 1, "moe_intermediate_size": 16,
    }  # fmt: skip
    vision = {
        "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8, "patch_size": 4,
        "position_embedding_size": 16,
    }  # fmt: skip
    return DiffusionGemmaConfig(
        text_config=shape | text,
        vision_config=vision,
        canvas_length=CANVAS,
        boi_token_id=296,
        eoi_token_id=297,
        image_token_id=298,
    )


def hf_model(
    *, experts: int | None, seed: int = 0, embedding: float = 20.0, matrices: float = 2.0, branches: float = 1.0, **text: Any
) -> DiffusionGemmaForBlockDiffusion:
    """Default init times the two gains; norms, router scales and layer scalars are random, so that a mix-up shows.

    `branches` scales what a layer adds to the residual; when it is small, the model repeats its canvas and settles.
    """
    torch.manual_seed(seed)
    model = DiffusionGemmaForBlockDiffusion(hf_config(experts=experts, **text)).eval()
    with torch.no_grad():
        decoder, layers = model.model.decoder, model.model.encoder.language_model.layers
        decoder.embed_tokens.weight.mul_(embedding)
        for name, tensor in decoder.named_parameters():
            if tensor.ndim > 1 and "embed_tokens" not in name:
                tensor.mul_(matrices * (10.0 if "router" in name else 1.0))  # decided experts, few near-ties
            elif tensor.ndim == 1:
                tensor.uniform_(0.6, 1.4)
            if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                tensor.mul_(branches)
        for scalar in (layer.layer_scalar for stack in (decoder.layers, layers) for layer in stack):
            scalar.uniform_(0.7, 1.1)
        if experts is None:
            _silence_experts(decoder)
    return model


def _silence_experts(decoder: nn.Module) -> None:
    for layer in decoder.layers:  # type: ignore[union-attr]
        layer.post_feedforward_layernorm_1.weight.fill_(1.0)
        layer.post_feedforward_layernorm_2.weight.zero_()


def save(model: DiffusionGemmaForBlockDiffusion, folder: Path, *, shards: str = "1GB") -> Path:
    """`save_pretrained`; a dense model's silent experts are then taken out of the files."""
    model.save_pretrained(folder, max_shard_size=shards)
    if model.config.text_config.num_experts == 1:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= {
            "num_experts": None,
            "top_k_experts": None,
            "moe_intermediate_size": None,
            "enable_moe_block": False,
        }
        (folder / "config.json").write_text(json.dumps(config))
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor.clone() for name, tensor in tensors.items() if not _EXPERT_PARTS.search(name)}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def hf_from_folder(folder: Path, *, attention: str = "eager") -> DiffusionGemmaForBlockDiffusion:
    """A float32 transformers model of a checkpoint: `from_pretrained`, or for a dense one-file checkpoint the silent expert."""
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    if text["num_experts"] is not None:
        return DiffusionGemmaForBlockDiffusion.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)
    text.pop("enable_moe_block", None)
    text |= {"num_experts": 1, "top_k_experts": 1, "moe_intermediate_size": 8}
    config.setdefault("vision_config", json.loads(hf_config().to_json_string())["vision_config"])
    parsed = DiffusionGemmaConfig(**{k: v for k, v in config.items() if k not in ("model_type", "dtype", "architectures")})
    parsed._attn_implementation = attention
    torch.manual_seed(0)
    model = DiffusionGemmaForBlockDiffusion(parsed).float().eval()
    result = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not result.unexpected_keys
    with torch.no_grad():
        _silence_experts(model.model.decoder)
    return model


def hf_cache(model: DiffusionGemmaForBlockDiffusion) -> DynamicCache:
    """The cache whose semantics this project follows: sliding layers keep the last W−1 tokens."""
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def hf_generation(
    *, steps: int, bound: float = 0.1, confidence: float = 0.005, stability: int = 1, eos: list[int] | None = None
) -> DiffusionGemmaGenerationConfig:
    """A generation config with everything said."""
    return DiffusionGemmaGenerationConfig(
        max_denoising_steps=steps,
        sampler_config=EntropyBoundSamplerConfig(bound),
        t_min=0.4,
        t_max=0.8,
        stability_threshold=stability,
        confidence_threshold=confidence,
        eos_token_id=eos,
        pad_token_id=0,
        bos_token_id=2,
    )
