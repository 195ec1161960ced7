"""Checkpoints that are refused: their tensors, files, index and JSON."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_edits import DENSE, EMBEDDING, ENCODER_NORM, NORM, SAMPLER, Edit, edit_json, edit_tensors, refused, shard
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgemma.core.errors import CheckpointError
from dgemma.core.sampler import SamplerConfig
from dgemma.model.checkpoint import is_finite, load, random_weights, save
from dgemma.model.weight_files import INDEX, WEIGHTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "ckpt", random_weights(DENSE, 1), SAMPLER)
    return tmp_path / "ckpt"


def replace(name: str, change: Callable[[Tensor], Tensor]) -> Edit:
    return lambda tensors: tensors.update({name: change(tensors[name])})


def poison(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


BAD_TENSORS: dict[str, tuple[Edit, str, str]] = {
    "missing": (lambda t: t.pop(NORM), NORM, "is missing"),
    "surplus": (lambda t: t.update({"model.decoder.extra.weight": torch.ones(2)}), "model.decoder.extra.weight", "unexpected"),
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
        "unexpected",
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
