"""A folder in the form of the released checkpoint: it loads, and computes what transformers computes, in each of its forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import released_folder
import torch
import torch.nn.functional as F
from checkpoints import hf_from_folder
from denoiser_parity import TOLERANCE, actual, error, expected, tokens
from torch import Tensor

from dgemma.export.chat import read_chat
from dgemma.export.tokenizer import read_tokenizer
from dgemma.model import hf_config
from dgemma.model.checkpoint import load, notes, read_config
from dgemma.model.denoiser import Denoiser, Router
from dgemma.runtime.tokenizer import HuggingFaceTokenizer, chat_ids

PROMPT = 21
FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "as downloaded": lambda folder, _: folder,
    "a hub's cache": released_folder.hub_cache,
    "saved again": released_folder.saved_again,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released_folder.make(tmp_path_factory.mktemp("released") / "folder")


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FORMS[request.param](folder, tmp_path_factory.mktemp("form") / "made")


@pytest.fixture(scope="module")
def wanted(folder: Path) -> dict[str, Tensor]:
    with torch.no_grad():
        return expected(hf_from_folder(folder), tokens(1, PROMPT))


def test_it_has_the_released_form(folder: Path) -> None:
    assert len(list(folder.glob("model-0000?-of-0000?.safetensors"))) > 4
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert any(name.startswith("model.encoder.vision_tower.") for name in index)
    assert "model.encoder.embed_vision.embedding_projection.weight" in index


def test_the_seed_decides_every_byte(folder: Path, tmp_path: Path) -> None:
    again = released_folder.make(tmp_path / "again")
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_every_form_computes_the_same(form: Path, wanted: dict[str, Tensor]) -> None:
    """Hidden states, keys and values of the encoder, and logits of denoising steps with self-conditioning."""
    worst = error(wanted, actual(load(form).model, tokens(1, PROMPT)))
    assert max(worst.values()) <= TOLERANCE, worst


def test_values_and_notes(form: Path) -> None:
    config, sampler = read_config(form)
    assert (config.num_experts, config.top_k_experts, config.moe_intermediate_size) == (8, 2, 32)
    assert (config.global_head_dim, config.global_num_kv_heads, config.max_position_embeddings) == (32, 1, 4096)
    assert [i for i in range(config.num_layers) if config.is_full(i)] == [5, 11]
    assert config.eos_token_ids == (1, 106, 50)
    assert (sampler.steps, sampler.t_min, sampler.t_max, sampler.entropy_bound) == (48, 0.4, 0.8, 0.1)
    assert hf_config.notes(form) == ()
    assert notes(form) == ("weights: vision tensors left out, since a bundle handles only text: 16",)


def swapped_experts(model: Denoiser) -> None:
    for matrix in (model.layers[3].experts.gate_up_proj, model.layers[3].experts.down_proj):
        matrix.data = matrix.data.flip(0)


def unnormalized(model: Denoiser) -> None:
    """Probabilities of the chosen experts as they are, which do not add up to 1."""

    def forward(router: Router, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = router.proj(router.norm(x) * router.scale * router.root_size)
        top, index = scores.softmax(-1).topk(router.top_k, dim=-1)
        return top * router.per_expert_scale[index], index

    for layer in model.layers:
        layer.router.forward = forward.__get__(layer.router)


def another_router_scale(model: Denoiser) -> None:
    for layer in model.layers:
        layer.router.root_size = 1.0


def no_expert_scale(model: Denoiser) -> None:
    for layer in model.layers:
        layer.router.per_expert_scale.data.fill_(1.0)


@pytest.mark.parametrize("damage", [swapped_experts, unnormalized, another_router_scale, no_expert_scale])
def test_damaged_experts_fail(folder: Path, wanted: dict[str, Tensor], damage: Callable[[Denoiser], None]) -> None:
    model = load(folder).model
    damage(model)
    worst = error(wanted, actual(model, tokens(1, PROMPT)))
    assert worst["logits"] > 10 * TOLERANCE, worst


def test_a_naive_loop_over_chosen_experts(folder: Path) -> None:
    """One token and one expert at a time, as the layer's feed-forward sums them up."""
    layer = load(folder).model.layers[2]
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    router, experts = layer.router, layer.experts
    found = torch.zeros_like(x)
    for row, token in enumerate(x):
        scores = router.proj.weight @ (token / (token.square().mean() + 1e-6).sqrt() * router.scale / 8)
        likely = scores.exp() / scores.exp().sum()
        chosen = sorted(range(8), key=lambda e: -float(likely[e]))[:2]
        total = sum(float(likely[e]) for e in chosen)
        for e in chosen:
            gate, up = (experts.gate_up_proj[e] @ token).split(32)
            inner = F.gelu(gate, approximate="tanh") * up
            found[row] += float(likely[e]) / total * float(router.per_expert_scale[e]) * (experts.down_proj[e] @ inner)
    torch.testing.assert_close(experts(x, *router(x)), found, rtol=1e-4, atol=1e-5 * float(found.abs().max()))


def test_chat_ids_are_those_of_transformers(form: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    found = read_tokenizer(form)
    assert found is not None and found.spec.vocab_size == released_folder.PIECES
    found.save(tmp_path)
    ours = HuggingFaceTokenizer(str(tmp_path / found.spec.file), [])
    config = read_config(form)[0]
    manifest: Any = SimpleNamespace(model=config, chat=read_chat(form, config, found)[0])
    assert manifest.chat is not None
    theirs = AutoTokenizer.from_pretrained(form)
    for text in ("Reverse the word table.", " ünïcode 你好 \n", "<unused7> and <0x41>"):
        messages = [{"role": "user", "content": text}]
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert chat_ids(manifest, ours, text, []) == list(ids), text
