"""Checkpoints that are refused: their tensors, files, index and JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.sampler import SamplerConfig
from dgemma.model.checkpoint import is_finite, load, random_weights, save
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "ckpt", random_weights(DENSE, 1), SAMPLER)
    return tmp_path / "ckpt"


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


def replace(name: str, change: Callable[[Tensor], Tensor]) -> Edit:
    return lambda tensors: tensors.update({name: change(tensors[name])})


def poison(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


BAD_TENSORS: dict[str, tuple[Edit, str, str]] = {
    "missing": (lambda t: t.pop(NORM), NORM, "is missing"),
    "surplus": (lambda t: t.update({"model.decoder.extra.weight": torch.ones(2)}), "model.decoder.extra.weight", "surplus"),
    "untied head": (lambda t: t.update({"lm_head.weight": t[EMBEDDING] + 1}), EMBEDDING, "lm_head.weight differs"),
    "untied zeros": (
        lambda t: (t[ENCODER_NORM[1]].zero_(), t.update({ENCODER_NORM[0]: -t[ENCODER_NORM[1]]})),
        *ENCODER_NORM,
    ),
    "half a head": (lambda t: t.update({"lm_head.weight": t[EMBEDDING].bfloat16()}), EMBEDDING, "lm_head.weight differs"),
    "an adapter's": (lambda t: t.update({"model.decoder.layers.0.q.lora_A.weight": t[NORM] + 0}), "lora_A", "merge_and_unload"),
    "experts in a dense model": (
        lambda t: t.update({"model.decoder.layers.0.router.scale": torch.ones(16)}),
        "layers.0.router.scale",
        "surplus",
    ),
    "transposed": (replace(EMBEDDING, lambda x: x.t().contiguous()), EMBEDDING, "shape [16, 40] instead of [40, 16]"),
    "one row short": (replace(EMBEDDING, lambda x: x[:-1].clone()), EMBEDDING, "shape [39, 16]"),
    "scalar without a dimension": (
        replace("model.decoder.layers.0.layer_scalar", lambda x: x[0].clone()),
        "layers.0.layer_scalar",
        "shape []",
    ),
    "integers": (replace(NORM, lambda x: x.to(torch.int32)), NORM, "torch.int32"),
    "float64": (replace(NORM, lambda x: x.double()), NORM, "torch.float64"),
    "float8": (replace(NORM, lambda x: x.to(torch.float8_e4m3fn)), NORM, "float8"),
    "NaN": (replace(EMBEDDING, poison(float("nan"))), EMBEDDING, "NaN or infinity"),
    "infinity": (replace(NORM, poison(float("inf"))), NORM, "NaN or infinity"),
    "minus infinity in bfloat16": (replace(NORM, lambda x: poison(float("-inf"))(x.bfloat16())), NORM, "NaN or infinity"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors(folder: Path, case: str) -> None:
    edit, tensor, reason = BAD_TENSORS[case]
    edit_tensors(folder, edit)
    message = refused(folder)
    assert message.startswith(f"/{WEIGHTS}: ")
    assert tensor in message
    assert reason in message


def test_finite_check() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for value in ("nan", "inf", "-inf"):
            for place in (0, 500, 999):
                tensor = torch.randn(1000).to(dtype)
                assert is_finite(tensor)
                tensor[place] = float(value)
                assert not is_finite(tensor)


def test_truncated_and_scrambled_files(folder: Path) -> None:
    """Cut anywhere, or with a byte of the header changed, a file is refused or means the same; nothing else escapes."""
    path = folder / WEIGHTS
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for size in (0, 5, 8, 100, header - 1, header, len(content) - 1):
        path.write_bytes(content[:size])
        assert "damaged or truncated" in refused(folder)
    rng, outcomes = random.Random(0), set()
    for _ in range(100):
        damaged = bytearray(content)
        damaged[rng.randrange(header)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load(folder)
            outcomes.add("loaded")
        except CheckpointError as error:
            outcomes.add(f"refused in {len(str(error).splitlines())} line")
    assert "refused in 1 line" in outcomes
    assert outcomes <= {"loaded", "refused in 1 line"}


def test_missing_files(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load(tmp_path / "nowhere")
    (folder / "generation_config.json").unlink()
    assert load(folder).sampler == SamplerConfig()
    (folder / WEIGHTS).unlink()
    assert WEIGHTS in refused(folder)
    (folder / "config.json").unlink()
    assert refused(folder).startswith("/config.json: is missing")


BAD_INDEX: dict[str, tuple[Edit, str]] = {
    "no map": (lambda v: v.pop("weight_map"), "has no weight_map"),
    "missing file": (lambda v: v["weight_map"].update({NORM: "model-9.safetensors"}), "model-9.safetensors"),
    "other folder": (lambda v: v["weight_map"].update({NORM: "../a.safetensors"}), "../a.safetensors"),
    "absolute": (lambda v: v["weight_map"].update({NORM: "/etc/passwd"}), "/etc/passwd"),
    "not a name": (lambda v: v["weight_map"].update({NORM: 3}), NORM),
    "promised, not held": (lambda v: v["weight_map"].update({"model.x": "model-00001-of-00003.safetensors"}), "model.x"),
}


@pytest.mark.parametrize("case", BAD_INDEX)
def test_bad_index(folder: Path, case: str) -> None:
    shard(folder)
    edit, reason = BAD_INDEX[case]
    edit_json(folder / INDEX, edit)
    assert reason in refused(folder)


def test_a_tensor_in_two_files(folder: Path) -> None:
    shard(folder, 2)
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    tensors = [{name: t.clone() for name, t in load_file(folder / f).items()} for f in files]
    tensors[1][NORM] = tensors[0][NORM] = (tensors[0] | tensors[1])[NORM]
    for name, held in zip(files, tensors, strict=True):
        save_file(held, folder / name)
    message = refused(folder)
    assert NORM in message
    assert "as well" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"a": ' * 5000, "\x00"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_bad_json(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert refused(folder).startswith(f"/{name}: ")
