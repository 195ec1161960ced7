"""The eager loop: lengths, stop tokens, lazy commit, seeds, and what it refuses. Parity is in tests/parity."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.noise import canvas_words, token_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.model.checkpoint import random_weights
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import Generation, generate

N = 8
CONFIG = ModelConfig(
    vocab_size=300, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    global_num_kv_heads=1, global_head_dim=8, sliding_window=4, canvas_length=N, max_position_embeddings=64, eos_token_ids=(),
)  # fmt: skip
SAMPLER = SamplerConfig(steps=3)


@pytest.fixture(scope="module")
def model() -> Denoiser:
    model = random_weights(CONFIG, 3)
    model.embed_tokens.weight.mul_(30)
    return model


def run(model: Denoiser, *, k: int = 20, seed: int = 5, prompt: tuple[int, ...] = (2, 9, 4), **options: Any) -> Generation:
    eos = options.pop("eos", ())
    model.config = dataclasses.replace(CONFIG, eos_token_ids=eos)
    return generate(model, options.pop("sampler", SAMPLER), prompt, seed=seed, max_new_tokens=k, **options)


@pytest.mark.parametrize(("k", "canvases"), [(1, 1), (N, 1), (N + 1, 2), (20, 3)])
def test_lengths(model: Denoiser, k: int, canvases: int) -> None:
    found = run(model, k=k)
    assert (len(found.tokens), found.canvases, found.stop_reason) == (k, canvases, "length")
    assert found.steps == len(found.trajectory.step) == 3 * canvases
    assert found.tokens == run(model, k=40).tokens[:k]
    assert found.trajectory.tokens.tolist() == list(found.tokens)


def test_the_trajectory_is_a_chain(model: Denoiser) -> None:
    t = run(model).trajectory
    assert t.prompt_ids.tolist() == [2, 9, 4]
    assert t.canvas_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert t.step.tolist() == [3, 2, 1] * 3
    assert np.allclose(t.temperature[:3], [0.8, 2 / 3, 1.6 / 3])
    for i in range(len(t.step)):
        if t.step[i] == 3:
            assert np.array_equal(t.canvas_in[i], token_from_word(canvas_words(5, int(t.canvas_index[i]), N), 300))
        else:
            assert np.array_equal(t.canvas_in[i], t.canvas_out[i - 1])


def test_stop_tokens(model: Denoiser) -> None:
    free = run(model, k=3 * N).tokens
    place = next(i for i in range(N + 2, 2 * N) if free[i] not in free[:i])
    stopped = run(model, k=3 * N, eos=(free[place], 299))
    assert (stopped.tokens, stopped.stop_reason, stopped.canvases) == (free[:place], "stop", 2)
    cut = run(model, k=place, eos=(free[place],))
    assert (cut.tokens, cut.stop_reason) == (free[:place], "length")  # the stop token is beyond K
    first = run(model, k=3 * N, eos=(free[0],))
    assert (first.tokens, first.stop_reason, first.canvases) == ((), "stop", 1)


def test_a_canvas_is_encoded_only_when_something_follows(model: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = model.encode

    def counting(tokens: torch.Tensor, *args: Any) -> Any:
        seen.append(tokens.shape[1])
        return encode(tokens, *args)

    monkeypatch.setattr(model, "encode", counting)
    run(model, k=20)
    assert seen == [3, N, N]  # the prompt and two of three canvases


def test_seeds_and_prompts_matter(model: Denoiser) -> None:
    assert run(model).trajectory.canvas_out.tolist() == run(model).trajectory.canvas_out.tolist()
    assert run(model).trajectory.canvas_out.tolist() != run(model, seed=6).trajectory.canvas_out.tolist()
    assert run(model).tokens != run(model, prompt=(2, 9, 5)).tokens
    assert len(run(model, prompt=()).tokens) == 20  # an empty prefix is allowed here; a session refuses it


def test_adaptive_and_fixed(model: Denoiser) -> None:
    always = SamplerConfig(steps=6, stability_threshold=0, confidence_threshold=99.0)
    assert run(model, sampler=always).steps == 3
    assert run(model, sampler=always, adaptive=False).steps == 18


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"k": 0}, "max_new_tokens"), ({"prompt": (2, 300)}, "300"), ({"prompt": (-1,)}, "-1"), ({"seed": -1}, "seed")],
    ids=str,
)
def test_bad_input(model: Denoiser, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        run(model, **options)
    assert "\n" not in str(caught.value)
