"""Calibration sees what the model reads, and the baseline finds a model equal to itself and a spoilt one worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import micro
import pytest
import sentencepiece
import torch
from torch import Tensor

from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate
from dgemma.quantize import calibration
from dgemma.quantize.baseline import FloatBaseline, ScoredPrompt, forced_steps
from dgemma.quantize.fake_quant import fake_quantize
from dgemma.quantize.integers import quantize
from dgemma.quantize.recipes import find
from dgemma.train.tiny import calibration as tiny_calibration
from dgemma.train.tiny import tasks

PROMPTS = [micro.prompt(5), micro.prompt(9)]
TINY = Path(__file__).parents[2] / "checkpoints" / "tiny"
ROOT = Path(__file__).parents[2]


def inputs_of(model: Denoiser, name: str, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Everything that one Linear reads while the model answers, [M, in]."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, -2)))
    for i, ids in enumerate(prompts):
        generate(model, micro.POLICY, ids, seed=i, max_new_tokens=calibration.MAX_NEW_TOKENS)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("name", ["layers.1.mlp.down_proj", "self_conditioning.up_proj"])
def test_calibration_records_the_models_own_denoising(name: str) -> None:
    model = micro.model()
    found = calibration.hessians(model, micro.POLICY, PROMPTS)
    x = inputs_of(model, name, PROMPTS).double()
    assert torch.allclose(found[f"{name}.weight"].double(), x.t() @ x / len(x), rtol=1e-4, atol=1e-6)
    matrices = {n for n, p in model.named_parameters() if p.ndim > 1}
    assert set(found) == matrices  # the head is there too
    assert "logits" not in vars(model.embed_tokens) and not model.layers[0].mlp.up_proj._forward_pre_hooks  # type: ignore[union-attr]


def test_clean_text_never_shows_a_soft_embedding() -> None:
    found = calibration.clean_hessians(micro.model(), [(ids, micro.prompt(20)) for ids in PROMPTS])
    own = calibration.hessians(micro.model(), micro.POLICY, PROMPTS)
    assert not found["self_conditioning.up_proj.weight"].any() and own["self_conditioning.up_proj.weight"].any()
    assert set(found) == set(own)


def test_the_tiny_prompts_are_those_of_the_generator_and_of_training() -> None:
    committed = calibration.read_prompts(ROOT / "quantize" / "calibration_tiny.jsonl", 618)
    examples = tiny_calibration.examples(TINY, tiny_calibration.PER_TASK, tiny_calibration.SEED)
    assert committed == [prompt for prompt, _ in examples] and len(committed) == tiny_calibration.PER_TASK * len(tasks.TASKS)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(TINY / "tokenizer.model"))
    held_out = {e.prompt for e in tasks.held_out(100)}
    texts = [sp.decode(ids) for ids in committed]
    assert not any(prompt in text for prompt in held_out for text in texts)
    assert all("model\n" in text for text in texts)  # decoding shows the turns, so it would show a prompt too


@pytest.fixture(scope="module")
def baseline() -> FloatBaseline:
    items = [ScoredPrompt(prompt_ids=ids, is_right=lambda tokens: sum(tokens) % 2 == 0) for ids in (*PROMPTS, micro.prompt(3))]
    return FloatBaseline(micro.model(), micro.POLICY, items, seed=0, max_new_tokens=2 * micro.N, forced_every=1)


def test_a_model_equals_itself(baseline: FloatBaseline) -> None:
    figures = baseline.figures(micro.model())
    assert figures["kl_mean"]["value"] < 1e-6 and figures["same_argmax"]["value"] == 1.0
    assert figures["step_inflation"]["value"] == 1.0 and figures["same_tokens"] == 1.0
    assert figures["exact_match"] == baseline.float_figures()["exact_match"]
    assert figures["exact_match_difference"]["value"] == 0.0


def test_fewer_bits_are_found_out(baseline: FloatBaseline) -> None:
    model = micro.model()
    kl = []
    for recipe in (find("w8"), replace(find("w4-all"), group=16)):
        figures = baseline.figures(fake_quantize(model, quantize(model, recipe)))
        kl.append(figures["kl_mean"]["value"])
        assert figures["kl_mean"]["low"] <= kl[-1] <= figures["kl_mean"]["high"]
    assert 1e-6 < kl[0] < 0.1 * kl[1]


@torch.no_grad()
def test_forced_steps_are_the_steps_of_the_generation() -> None:
    model = micro.model()
    run = generate(model, micro.POLICY, PROMPTS[0], seed=0, max_new_tokens=2 * micro.N)
    canvases = forced_steps(model, run)
    assert len(canvases) == run.canvases == 2
    assert torch.equal(torch.cat([c.canvas for c in canvases]), torch.from_numpy(run.trajectory.canvas_in))
    argmax = torch.cat([c.logp.argmax(-1) for c in canvases])
    assert torch.equal(argmax, torch.from_numpy(run.trajectory.argmax))
    assert not canvases[1].soft[0].any() and canvases[1].soft[1].any()
