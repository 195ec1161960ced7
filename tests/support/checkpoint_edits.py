"""A small checkpoint for tests to damage: its shape, changes of its files, and what its refusal says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.sampler import SamplerConfig
from dgemma.model.checkpoint import load
from dgemma.model.weight_files import INDEX, WEIGHTS

DENSE = ModelConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=8,
    global_num_kv_heads=2, global_head_dim=12, sliding_window=4, canvas_length=8, max_position_embeddings=64,
    eos_token_ids=(1, 7), pad_token_id=3, bos_token_id=4, rms_norm_eps=1e-5, sliding_rope_theta=5e3, full_rope_theta=2e5,
    full_partial_rotary_factor=0.5, final_logit_softcapping=20.0,
)  # fmt: skip
SAMPLER = SamplerConfig(steps=9, t_min=0.3, t_max=0.9, entropy_bound=0.7, stability_threshold=2, confidence_threshold=0.01)
EMBEDDING = "model.decoder.embed_tokens.weight"
NORM = "model.decoder.layers.1.input_layernorm.weight"
ENCODER_NORM = ("model.encoder.language_model.norm.weight", "model.decoder.norm.weight")

Edit = Callable[[Any], Any]


def edit_json(path: Path, edit: Edit) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def edit_tensors(folder: Path, edit: Edit) -> None:
    # clones: the file is about to be replaced under the mapping
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path, parts: int = 3) -> None:
    """Split the weight file as `save_pretrained` does with a small `max_shard_size`."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    weight_map = {}
    for i in range(parts):
        file = f"model-{i + 1:05d}-of-{parts:05d}.safetensors"
        save_file({name: tensors[name] for name in names[i::parts]}, folder / file)
        weight_map |= dict.fromkeys(names[i::parts], file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    return message.removeprefix(str(folder))
