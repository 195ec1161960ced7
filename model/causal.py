"""Causal checkpoints of the architecture that `diffusion_gemma` comes from, read as denoisers and written.

A Gemma 4 text model without per-layer inputs and shared keys is the encoder of a denoiser, tensor for tensor. Both modes share
weights, so its layers are the denoiser's too; only self-conditioning has no counterpart. Source: transformers 5.23,
`modeling_gemma4.py` and `configuration_gemma4.py`. It knows nothing of training.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.model.checkpoint import check_tensor, opened
from dgemma.model.denoiser import Denoiser
from dgemma.model.hf_config import CONFIG, GENERATION, Json, described, read_json, text_config, write_json
from dgemma.model.weight_files import WEIGHTS, find_weights

TEXT_TYPE, TYPES = "gemma4_text", ("gemma4_text", "gemma4")
# What a config that leaves them out implies is none of these (`Gemma4TextConfig`).
_NEEDED = {"attention_k_eq_v": True, "hidden_size_per_layer_input": 0}
_LEFT_OUT = ("vision_tower.", "embed_vision.", "audio_tower.", "embed_audio.", "multi_modal_projector.")
_HEAD, _EMBEDDING = "lm_head.weight", "embed_tokens.weight"
_SELF = "self_conditioning."


def is_causal(folder: Path) -> bool:
    """Whether a folder's config is that of a causal model of this architecture; raises CheckpointError as `read_json`."""
    return read_json(folder / CONFIG).get("model_type") in TYPES


def read_causal_config(folder: Path, canvas_length: int) -> ModelConfig:
    """The shape of the denoiser that a causal checkpoint becomes; raises CheckpointError, which names file and key."""
    path = folder / CONFIG
    top = read_json(path)
    kind = top.get("model_type")
    if kind not in TYPES:
        raise CheckpointError(f"{path}: model_type is {kind!r}; only {' and '.join(TYPES)} can be adapted")
    text = top if kind == TEXT_TYPE else top.get("text_config")
    if not isinstance(text, dict):
        raise CheckpointError(f"{path}: has no text_config; copy the checkpoint again")
    for key, needed in _NEEDED.items():
        if text.get(key) != needed:
            raise CheckpointError(f"{path}: {key} is {text.get(key)!r}; only models with {needed} can be adapted")
    if text.get("final_logit_softcapping") is None:
        raise CheckpointError(f"{path}: final_logit_softcapping is null; only models that cap their logits can be adapted")
    inner = {key: value for key, value in text.items() if key not in ("quantization_config",)}
    outer: Json = {
        "model_type": "diffusion_gemma",
        "canvas_length": canvas_length,
        "text_config": inner | {"model_type": "diffusion_gemma_text"},
        "quantization_config": top.get("quantization_config"),
    }
    generation = read_json(folder / GENERATION) if (folder / GENERATION).exists() else {}
    return described(outer, path, generation)


def load_causal(folder: Path, canvas_length: int, generator: torch.Generator) -> Denoiser:
    """A denoiser of a causal checkpoint's weights, in float32 with gradients.

    Encoder and head compute what the causal model does. Self-conditioning starts as nothing: its last matrix is zero, the
    others are drawn from `generator`.

    Raises:
        CheckpointError: one line naming file and tensor or key.
    """
    model = Denoiser(read_causal_config(folder, canvas_length))
    state, missing = model.state_dict(), set(model.state_dict())
    head: tuple[Path, Tensor] | None = None
    for file, _ in find_weights(folder).files.items():
        with opened(folder / file) as stored:
            for name in stored.keys():  # noqa: SIM118
                short = name.removeprefix("model.").removeprefix("language_model.")
                if short.startswith(_LEFT_OUT):
                    continue
                if short == _HEAD:
                    head = folder / file, stored.get_tensor(name)
                    continue
                tensor: Tensor = stored.get_tensor(name)
                for own in _own_names(short):
                    if own not in state:
                        raise CheckpointError(f"{folder / file}: tensor {name} is unexpected; {CONFIG} does not describe it")
                    check_tensor(folder / file, name, tensor, state[own].shape)
                    state[own].copy_(tensor)
                    missing.discard(own)
    if lost := sorted(name for name in missing if not name.startswith(_SELF)):
        raise CheckpointError(f"{folder}: tensor {lost[0]} is missing ({len(lost)} in all); copy the checkpoint again")
    if head is not None and not torch.equal(head[1].float(), state[_EMBEDDING]):
        raise CheckpointError(f"{head[0]}: {_HEAD} differs from the embedding; only models that tie them can be adapted")
    begin_self_conditioning(model, generator)
    return model


def _own_names(short: str) -> tuple[str, ...]:
    """Names in the denoiser's state of a tensor of the causal text model."""
    stem, _, last = short.rpartition(".")
    return (f"{stem}.encode_scalar", f"{stem}.denoise_scalar") if last == "layer_scalar" else (short,)


def begin_self_conditioning(model: Denoiser, generator: torch.Generator) -> None:
    """Make self-conditioning add nothing yet, and able to learn: only its last matrix is zero."""
    with torch.no_grad():
        part = model.self_conditioning
        for matrix in (part.gate_proj.weight, part.up_proj.weight):
            matrix.normal_(0.0, 0.5 * matrix.shape[1] ** -0.5, generator=generator)
        part.down_proj.weight.zero_()
        part.pre_norm.weight.fill_(1.0)  # type: ignore[union-attr]


def save_causal(folder: Path, model: Denoiser, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a denoiser's encoder and head as a causal checkpoint, `Gemma4ForCausalLM` of transformers.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(_SELF) and not name.endswith(".denoise_scalar"):
            tensors[f"model.{name.replace('.encode_scalar', '.layer_scalar')}"] = tensor.detach().to(dtype).contiguous()
    config = (
        text_config(model.config)
        | _NEEDED
        | {
            "architectures": ["Gemma4ForCausalLM"],
            "model_type": TEXT_TYPE,
            "num_kv_shared_layers": 0,
            "dtype": str(dtype).removeprefix("torch."),
        }
    )
    partial = folder / (WEIGHTS + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, folder / WEIGHTS)
        write_json(folder / CONFIG, config)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CheckpointError(f"{folder}: cannot be written ({error}); choose another folder or free some space") from None
