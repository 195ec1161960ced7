"""Causal checkpoints as denoisers, what is refused, and adapting; transformers' part is in tests/parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from byte_chat import line, speak

from dgemma.core.errors import CheckpointError, UsageError
from dgemma.model import causal, checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.train import config as files
from dgemma.train.adapt import adapting
from dgemma.train.training import begin, shape_of, training

IDS = torch.tensor([micro.prompt(20)])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def said(model: Denoiser) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model.encode(IDS)[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    causal.save_causal(tmp_path / "causal", micro.model())
    return tmp_path / "causal"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def test_the_encoder_is_the_causal_model_and_self_conditioning_adds_nothing(folder: Path) -> None:
    model = causal.load_causal(folder, micro.N, generator())
    assert torch.equal(said(model), said(micro.model()))
    canvas, soft = torch.tensor([micro.prompt(micro.N)]), torch.randn(1, micro.N, 32, generator=generator())
    with torch.no_grad():
        _, prefix = model.encode(IDS)
        plain = model.denoise(canvas, torch.zeros_like(soft), prefix, IDS.shape[1])
        assert torch.equal(model.denoise(canvas, soft, prefix, IDS.shape[1]), plain)
        model.self_conditioning.down_proj.weight.fill_(0.1)
        assert not torch.equal(model.denoise(canvas, soft, prefix, IDS.shape[1]), plain)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; only gemma4_text and gemma4"),
        ({"attention_k_eq_v": False}, "attention_k_eq_v is False"),
        ({"hidden_size_per_layer_input": ...}, "hidden_size_per_layer_input is None"),
        ({"final_logit_softcapping": None}, "final_logit_softcapping is null"),
        ({"num_kv_shared_layers": 1}, "num_kv_shared_layers is 1"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantized"),
        ({"hidden_size": 64}, "has shape"),
        ({"num_hidden_layers": 3, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}, "has shape"),
    ],
)
def test_models_that_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        causal.load_causal(folder, micro.N, generator())
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)


def test_tensors_that_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)

    def refused(changed: dict[str, torch.Tensor], message: str) -> None:
        save_file(changed, path)
        with pytest.raises(CheckpointError, match=message):
            causal.load_causal(folder, micro.N, generator())

    embedding = tensors["model.embed_tokens.weight"]
    refused({**tensors, "lm_head.weight": embedding + 1}, "lm_head.weight differs")
    refused({**tensors, "model.layers.0.extra": torch.ones(1)}, "layers.0.extra is unexpected")
    refused({**tensors, "model.norm.weight": torch.full((32,), torch.nan)}, "NaN")
    refused({k: v for k, v in tensors.items() if k != "model.norm.weight"}, "norm.weight is missing")
    vision = {"model.vision_tower.x": torch.ones(1), "lm_head.weight": embedding.clone()}
    save_file({k.replace("model.", "model.language_model."): v for k, v in tensors.items()} | vision, path)
    assert torch.equal(said(causal.load_causal(folder, micro.N, generator())), said(micro.model()))


def test_a_whole_config_wraps_the_text_config(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma4", "text_config": text}))
    assert causal.read_causal_config(folder, micro.N) == micro.CONFIG
    edit(folder, text_config=None)
    with pytest.raises(CheckpointError, match="has no text_config"):
        causal.read_causal_config(folder, micro.N)


# Adapting


def test_adapting_trains_a_denoiser_and_keeps_the_causal_loss(folder: Path, tmp_path: Path) -> None:
    file, texts = tmp_path / "chat.jsonl", tmp_path / "texts"
    file.write_text("".join(line(f"say {i}", f"it is {i}" * (1 + i % 3)) for i in range(24)))
    texts.mkdir()
    config = adapting(folder, file, tokens=1500, canvas=8, batch=4)
    shape = shape_of(folder, 8)
    run = training(config, shape, texts, tmp_path / "out", speak)
    assert shape.canvas_length == 8 and run.objective.next_token_weight > 0 and run.objective.grow_until > 0
    before = run.model.self_conditioning.down_proj.weight.detach().clone()
    outcome = run.run()
    assert outcome.tokens >= 1500 and not before.any() and run.model.self_conditioning.down_proj.weight.any()
    assert checkpoint.load(tmp_path / "out").config == shape


def test_what_adapting_refuses(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    with pytest.raises(CheckpointError, match="no such folder"):
        adapting(tmp_path / "none", file, tokens=1, canvas=8)
    with pytest.raises(CheckpointError, match="is not a causal Gemma 4 model"):
        adapting(micro.save(tmp_path / "denoiser"), file, tokens=1, canvas=8)
    good: dict[str, Any] = {"tokens": 1, "canvas": 8}
    for change, message in (
        ({"tokens": 0}, "--tokens 0"), ({"canvas": 0}, "--canvas 0"), ({"batch": 1}, "--batch 1"), ({"rate": 0.0}, "--rate"),
        ({"grow_until": 2.0}, "--grow-until 2.0"), ({"seed": -1}, "--seed -1"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            adapting(folder, file, **{**good, **change})


def test_a_config_file_can_begin_with_either_kind(folder: Path, tmp_path: Path) -> None:
    denoiser = micro.save(tmp_path / "denoiser")
    assert shape_of(denoiser, None) == micro.CONFIG and shape_of(folder, None).canvas_length == 256
    with pytest.raises(UsageError, match=r"model.canvas_length 8: .* has 16"):
        shape_of(denoiser, 8)
    assert torch.equal(said(begin(shape_of(folder, 8), folder, 0)), said(micro.model()))
    values = {"model": {"init": "causal", "hidden_size": 8}, "data": {"files": ["x"]}, "run": {"steps": 1}}
    with pytest.raises(UsageError, match=r"model.hidden_size: the weights of model.init have their own shape"):
        files.parse(values, tmp_path)
