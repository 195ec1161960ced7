"""Training on stories: packed conversations against one canvas at a time, and what a later step is learned from."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import micro
import pytest
import torch

from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import extend
from dgemma.train.story import packed, train, vocabulary
from dgemma.train.story.dialogue import draw_dialogue, turn

END = 7


def encode(text: str) -> list[int]:
    return [b % 250 + 10 for b in text.encode()]


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return micro.model(replace(micro.CONFIG, sliding_window=128)).requires_grad_(True)


@pytest.fixture(scope="module")
def batch() -> packed.Packed:
    told = [packed.conversation_ids(turn("ab", "x" * size), encode, micro.N, bos=2, end=END) for size in (3, 40)]
    return packed.packed(told)


def test_a_conversation_is_cut_into_canvases_where_its_answers_are() -> None:
    messages = turn("hi", "y" * 20) + turn("oh", "z")
    one = packed.conversation_ids(messages, encode, 16, bos=2, end=END)
    assert [len(canvas) for _, canvas in one.canvases] == [16, 16, 16]
    for (start, canvas), real in zip(one.canvases, (16, 5, 2), strict=True):
        assert one.ids[start : start + real] == canvas[:real] and canvas[real:] == [0] * (16 - real)
    assert sum(one.said) == 21 + 2


def test_packed_canvases_are_those_behind_their_own_prefix(model: Denoiser, batch: packed.Packed) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, micro.VOCAB, batch.canvas.shape, generator=generator)
    soft = torch.randn(*batch.canvas.shape, model.config.hidden_size, generator=generator)
    with torch.no_grad():
        _, kv = packed.encode_whole(model, batch.ids)
        slots = int(batch.start.max())
        prefix = [(k[:, :slots][batch.owner], v[:, :slots][batch.owner]) for k, v in kv]
        found = packed.denoise_behind(model, noise, soft, prefix, batch.start)
        for row, (owner, start) in enumerate(zip(batch.owner.tolist(), batch.start.tolist(), strict=True)):
            own = extend(model, None, batch.ids[owner, :start].tolist())
            alone = model.denoise(noise[row : row + 1], soft[row : row + 1], own, start)
            torch.testing.assert_close(found[row : row + 1], alone, atol=1e-4, rtol=1e-4)
            other = model.denoise(noise[row : row + 1], soft[row : row + 1], own, start - 1)
            assert not torch.allclose(found[row : row + 1], other, atol=1e-2)


def test_what_is_accepted_is_the_answers_and_the_rest_noise(model: Denoiser, batch: packed.Packed) -> None:
    logits = torch.zeros(4, micro.N, micro.VOCAB)
    logits[:, :5, 9] = 60.0  # certain positions, and one more, are accepted
    truth = torch.full((4, micro.N), 11)
    near = packed.Mixture(leap_share=0.0)
    canvas, soft, taken = packed.accepted(model, logits, truth, SamplerConfig(), near, torch.Generator().manual_seed(0))
    assert (taken.sum(1) == 6).all() and (canvas[:, :6] == 11).all() and (canvas[:, 6:] != 11).float().mean() > 0.9
    assert soft.shape == (4, micro.N, model.config.hidden_size)
    diffusion, next_token = packed.losses(model, batch, SamplerConfig(), packed.Mixture(), torch.Generator().manual_seed(0))
    assert diffusion.requires_grad and next_token > 0


def test_a_run_goes_on_from_its_state_and_is_published(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    vocabulary.build(work / train.TOKENIZER)
    config = train.TrainConfig(minutes=1e-4, tokens=100)
    first = train.run(work, config)
    training = train.run(work, replace(config, minutes=first.seconds / 60 + 1e-4))
    assert training.step > first.step >= 1 and training.seconds > first.seconds
    assert training.to_ids(draw_dialogue(random.Random(0), 2)).canvases
    train.publish(work, out, training)
    assert {p.name for p in out.iterdir()} >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.model"}
    assert json.loads((out / "training" / "stage-1" / "config.json").read_text())["tokens"] == 100
