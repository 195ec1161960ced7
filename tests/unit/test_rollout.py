"""Many prompts at once give what one at a time gives; noise that draws for itself makes a canvas a function of its noise."""

from __future__ import annotations

import micro
import pytest
import torch

from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate
from dgemma.train import rollout

POLICY = SamplerConfig(steps=6, confidence_threshold=1.0)
PROMPTS = [[2, 70, 71, 72], [2, 80], [2, *range(60, 90)]]


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return micro.model()


def test_rows_are_the_generations_of_one_prompt(model: Denoiser) -> None:
    seeds = [5, 6, 2**40]
    found = rollout.generate_rows(model, POLICY, PROMPTS, seeds, most_canvases=2)
    for prompt, seed, rows in zip(PROMPTS, seeds, found, strict=True):
        one = generate(model, POLICY, prompt, seed=seed, max_new_tokens=2 * micro.N)
        assert (tuple(rows.tokens), sum(c.steps for c in rows.canvases)) == (one.tokens, one.steps)


def test_other_seeds_give_other_canvases(model: Denoiser) -> None:
    a, b = (rollout.generate_rows(model, POLICY, PROMPTS[:1], [seed], most_canvases=1)[0] for seed in (1, 2))
    assert a.canvases[0].noise != b.canvases[0].noise and a.canvases[0].committed != b.canvases[0].committed


def test_coupled_words_are_those_of_the_noise(model: Denoiser) -> None:
    vocab = model.config.vocab_size
    noise = rollout.initial_noise(3, 0, micro.N, vocab)[None]
    others = rollout.contract_words([3], 0, micro.N)
    words = rollout.coupled_words(noise, vocab, others)(0, 1)
    assert ((words[0] * vocab) >> 32).tolist() == noise[0].tolist() and torch.equal(words[1], others(0, 1)[1])
    again = [
        rollout.generate_rows(model, POLICY, [PROMPTS[0]] * 2, [9, seed], most_canvases=1, coupled=True) for seed in (1, 2)
    ]
    assert again[0][0] == again[1][0] and again[0][1] != again[1][1]


def test_sampled_tokens_follow_the_causal_pass(model: Denoiser) -> None:
    """So cold that the likeliest token is drawn: greedy decoding, one prompt at a time."""
    found = rollout.sample_tokens(model, PROMPTS, torch.Generator().manual_seed(0), temperature=1e-6, most_tokens=5)
    for prompt, one in zip(PROMPTS, found, strict=True):
        ids = list(prompt)
        for token in one.tokens:
            hidden, _ = model.encode(torch.tensor([ids]))
            assert token == int(model.head(hidden)[0, -1].argmax())
            ids.append(token)
        assert one.stopped or len(one.tokens) == 5
